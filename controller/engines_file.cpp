#include "controller/engines_file.hpp"

#include "protocol/connection_file.hpp"

namespace ddipp::controller {

using protocol::Json;

Result<SavedEngines> read_engines_file(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return Failure{"there is no file " + path.string()};
  }
  const auto json = protocol::read_json_file(path);
  if (!json) return Failure{json.error()};
  SavedEngines saved;
  try {
    for (const auto& [id, uuid] : json->at("engines").items()) {
      saved.engines.push_back({std::stoi(id), uuid.get<std::string>(), {}});
    }
    saved.next_id = json->value("next_id", 0);
    for (const auto& uuid : json->value("routed", Json::array())) {
      saved.ours.insert(uuid.get<std::string>());
    }
  } catch (const std::exception&) {
    return Failure{path.string() + " is no list of engines"};
  }
  return saved;
}

Result<std::monostate> write_engines_file(const std::filesystem::path& path,
                                          const Registry& registry) {
  Json engines = Json::object();
  Json routed = Json::array();
  for (const auto& [id, engine] : registry.engines()) {
    engines[std::to_string(id)] = engine.uuid;
    if (!engine.route.empty()) routed.push_back(engine.uuid);
  }
  return protocol::write_json_file(
      path, Json{{"engines", engines}, {"next_id", registry.next_id()}, {"routed", routed}});
}

}  // namespace ddipp::controller
