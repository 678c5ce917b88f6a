// What a task waits for: other tasks by id, all or any of them, their success or their failure.
// Pure. The semantics are those of ipyparallel's Dependency.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "protocol/packing.hpp"
#include "protocol/result.hpp"

namespace ddipp::controller {

// How a task ended, and where; null when it never ran. The names of engines are shared.
struct Outcome {
  bool success = false;
  std::shared_ptr<const std::string> engine;
};

using Outcomes = std::unordered_map<std::string, Outcome>;

struct Dependency {
  std::vector<std::string> ids;  // each once
  bool all = true;
  bool success = true;   // a success meets it
  bool failure = false;  // a failure meets it

  bool empty() const { return ids.empty(); }
  bool accepts(const Outcome& outcome) const { return outcome.success ? success : failure; }

  enum class State { met, waiting, impossible };
  State check(const Outcomes& outcomes) const;
};

// A list of ids, one id, or {"dependencies": [...], "all": ..., "success": ..., "failure": ...};
// null is no dependency.
Result<Dependency> parse_dependency(const protocol::Json& json);

}  // namespace ddipp::controller
