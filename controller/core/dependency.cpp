#include "controller/core/dependency.hpp"

#include <algorithm>

namespace ddipp::controller {

using protocol::Json;

Dependency::State Dependency::check(const Outcomes& outcomes) const {
  if (ids.empty()) return State::met;
  std::size_t accepted = 0;
  std::size_t refused = 0;
  for (const auto& id : ids) {
    const auto found = outcomes.find(id);
    if (found == outcomes.end()) continue;
    ++(accepts(found->second) ? accepted : refused);
  }
  if (all) {
    if (refused > 0) return State::impossible;
    return accepted == ids.size() ? State::met : State::waiting;
  }
  if (accepted > 0) return State::met;
  return refused == ids.size() ? State::impossible : State::waiting;
}

Result<Dependency> parse_dependency(const Json& json) {
  Dependency dependency;
  if (json.is_null()) return dependency;
  Json ids = json;
  try {
    if (json.is_object()) {
      dependency.all = json.value("all", true);
      dependency.success = json.value("success", true);
      dependency.failure = json.value("failure", false);
      ids = json.value("dependencies", Json::array());
    }
    if (ids.is_string()) ids = Json::array({ids});
    dependency.ids = ids.get<std::vector<std::string>>();
  } catch (const Json::exception& error) {
    return Failure{std::string("a dependency can't be read: ") + error.what()};
  }
  if (!dependency.success && !dependency.failure) {
    return Failure{std::string("a dependency must be met by successes or by failures")};
  }
  std::sort(dependency.ids.begin(), dependency.ids.end());
  dependency.ids.erase(std::unique(dependency.ids.begin(), dependency.ids.end()),
                       dependency.ids.end());
  return dependency;
}

}  // namespace ddipp::controller
