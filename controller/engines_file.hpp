// The ids and uuids of the registered engines on disk, so that a controller that is started again
// knows them: {"engines": {"0": "<uuid>"}, "next_id": 1}, as ipcontroller writes it,
// and which of them are ours, in "routed".
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "controller/core/registry.hpp"

namespace ddipp::controller {

struct SavedEngines {
  std::vector<Engine> engines;
  int next_id = 0;
  std::set<std::string> ours;  // uuids of those that connect by a route
};

// Fail with one line that names the file and the cause.
Result<SavedEngines> read_engines_file(const std::filesystem::path& path);
Result<std::monostate> write_engines_file(const std::filesystem::path& path,
                                          const Registry& registry);

}  // namespace ddipp::controller
