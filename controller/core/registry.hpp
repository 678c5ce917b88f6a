// Who is an engine of this controller: ids, uuids, and registrations that wait for their first
// heartbeat. Pure: time comes in as an argument.
#pragma once

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "protocol/result.hpp"

namespace ddipp::controller {

using TimePoint = std::chrono::steady_clock::time_point;

struct Engine {
  int id = 0;
  std::string uuid;
  // The identity by which one of ours connects (protocol/relay_tag.hpp), "" for a stock engine,
  // which connects by its uuid.
  std::string route = {};
};

inline constexpr int kMaxId = 1'000'000'000;

// Invariant: an id or uuid is in at most one of `engines` and the pending registrations.
class Registry {
 public:
  // Reserves an id: the wished one when it is free, else the next never used. Fails when the uuid
  // is taken. The reservation lapses at `deadline` unless finish() comes first.
  Result<int> begin(const std::string& uuid, std::optional<int> wish, TimePoint deadline,
                    std::string route = {});

  // The engine's heart beats: it is registered now. Nothing for an unknown uuid.
  std::optional<Engine> finish(const std::string& uuid);

  // Registers at once under a known id; false when the id or the uuid is taken.
  bool restore(const Engine& engine);
  // No id below this one is given out from now on.
  void reserve_ids(int next_id) { next_id_ = std::clamp(next_id, next_id_, kMaxId); }
  int next_id() const { return next_id_; }

  // Removes an engine or a pending registration; nothing for an unknown id.
  std::optional<Engine> remove(int id);

  // Drops the registrations whose deadline has passed and returns them.
  std::vector<Engine> drop_stalled(TimePoint now);

  std::optional<TimePoint> next_deadline() const;
  std::optional<Engine> find(const std::string& uuid) const;  // registered ones only
  bool is_registering(int id, const std::string& uuid) const;
  bool contains(const std::string& uuid) const { return id_of_.contains(uuid); }
  const Engine* get(const std::string& uuid) const;  // null for one that is not registered
  // Registered or registering, and by a route of its own.
  bool has_route(const std::string& uuid) const;
  // Whether somebody is known by a uuid alone, which any stranger may use too.
  bool has_stock_engine() const;
  const std::map<int, Engine>& engines() const { return engines_; }

 private:
  struct Pending {
    Engine engine;
    TimePoint deadline;
  };

  bool id_is_free(int id) const;

  std::map<int, Engine> engines_;
  std::unordered_map<std::string, int> id_of_;  // registered uuids
  std::map<std::string, Pending> pending_;      // by uuid
  int next_id_ = 0;
};

}  // namespace ddipp::controller
