// What dipengine hands to the host library: one JSON object, so that the border between the two is
// plain C.
#pragma once

#include <optional>
#include <string>

#include "engine/core/lifecycle.hpp"
#include "protocol/connection_file.hpp"

namespace ddipp::engine {

struct HostOptions {
  protocol::EngineConnection connection;
  std::string connection_source;  // path or variable that it came from, for messages
  std::string uuid;               // identity of all sockets
  std::optional<int> id;          // wished for
  std::string log_level = "info";
  LifecycleOptions lifecycle;
};

}  // namespace ddipp::engine
