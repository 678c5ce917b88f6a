#include "controller/core/registry.hpp"

#include <algorithm>

namespace ddipp::controller {

bool Registry::id_is_free(int id) const {
  return id >= 0 && !engines_.contains(id) &&
         std::none_of(pending_.begin(), pending_.end(),
                      [id](const auto& entry) { return entry.second.engine.id == id; });
}

Result<int> Registry::begin(const std::string& uuid, std::optional<int> wish, TimePoint deadline,
                            std::string route) {
  if (uuid.empty()) return Failure{std::string("the uuid is empty")};
  if (const auto found = pending_.find(uuid);
      found != pending_.end() && wish == found->second.engine.id) {
    found->second.deadline = deadline;
    return *wish;
  }
  if (id_of_.contains(uuid) || pending_.contains(uuid)) {
    return Failure{"uuid '" + uuid + "' in use"};
  }
  // The last ids are left alone: there has to be a next one.
  const bool granted = wish && *wish < kMaxId && id_is_free(*wish);
  const int id = granted ? *wish : next_id_;
  if (id >= kMaxId) return Failure{std::string("there are no more ids")};
  next_id_ = std::max(next_id_, id + 1);
  pending_[uuid] = Pending{Engine{id, uuid, std::move(route)}, deadline};
  return id;
}

std::optional<Engine> Registry::finish(const std::string& uuid) {
  const auto found = pending_.find(uuid);
  if (found == pending_.end()) return std::nullopt;
  Engine engine = found->second.engine;
  pending_.erase(found);
  engines_[engine.id] = engine;
  id_of_[uuid] = engine.id;
  return engine;
}

bool Registry::restore(const Engine& engine) {
  if (engine.id >= kMaxId || !id_is_free(engine.id) || id_of_.contains(engine.uuid) ||
      pending_.contains(engine.uuid)) {
    return false;
  }
  engines_[engine.id] = engine;
  id_of_[engine.uuid] = engine.id;
  reserve_ids(engine.id + 1);
  return true;
}

bool Registry::is_registering(int id, const std::string& uuid) const {
  const auto found = pending_.find(uuid);
  return found != pending_.end() && found->second.engine.id == id;
}

std::optional<Engine> Registry::remove(int id) {
  if (const auto found = engines_.find(id); found != engines_.end()) {
    Engine engine = found->second;
    id_of_.erase(engine.uuid);
    engines_.erase(found);
    return engine;
  }
  for (auto entry = pending_.begin(); entry != pending_.end(); ++entry) {
    if (entry->second.engine.id != id) continue;
    Engine engine = entry->second.engine;
    pending_.erase(entry);
    return engine;
  }
  return std::nullopt;
}

std::vector<Engine> Registry::drop_stalled(TimePoint now) {
  std::vector<Engine> dropped;
  for (auto entry = pending_.begin(); entry != pending_.end();) {
    if (entry->second.deadline > now) {
      ++entry;
      continue;
    }
    dropped.push_back(entry->second.engine);
    entry = pending_.erase(entry);
  }
  return dropped;
}

std::optional<TimePoint> Registry::next_deadline() const {
  std::optional<TimePoint> earliest;
  for (const auto& [uuid, pending] : pending_) {
    if (!earliest || pending.deadline < *earliest) earliest = pending.deadline;
  }
  return earliest;
}

const Engine* Registry::get(const std::string& uuid) const {
  const auto found = id_of_.find(uuid);
  return found == id_of_.end() ? nullptr : &engines_.at(found->second);
}

std::optional<Engine> Registry::find(const std::string& uuid) const {
  const Engine* engine = get(uuid);
  return engine == nullptr ? std::nullopt : std::optional(*engine);
}

bool Registry::has_route(const std::string& uuid) const {
  if (const Engine* engine = get(uuid)) return !engine->route.empty();
  const auto found = pending_.find(uuid);
  return found != pending_.end() && !found->second.engine.route.empty();
}

bool Registry::has_stock_engine() const {
  const auto is_stock = [](const Engine& engine) { return engine.route.empty(); };
  return std::any_of(engines_.begin(), engines_.end(),
                     [&](const auto& entry) { return is_stock(entry.second); }) ||
         std::any_of(pending_.begin(), pending_.end(),
                     [&](const auto& entry) { return is_stock(entry.second.engine); });
}

}  // namespace ddipp::controller
