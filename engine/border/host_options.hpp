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
  std::size_t output_limit = 16 * 1024 * 1024;
  // Ends of the pipes that the supervisor made, and where the interpreter says where it crashed.
  int stdout_read = -1, stdout_write = -1, stderr_read = -1, stderr_write = -1, fault_fd = -1;
};

}  // namespace ddipp::engine
