// Where dipengine gets the controller's address from.
#pragma once

#include <string>

#include "engine/options.hpp"
#include "protocol/packing.hpp"
#include "protocol/result.hpp"

namespace ddipp::engine {

struct Connection {
  protocol::Json info;
  std::string source;  // path or variable, for messages
};

// $IPP_CONNECTION_INFO, else the connection file, which is waited for: an engine may be started
// before its controller has written it. Fails with one line.
Result<Connection> find_connection(const Options& options);

}  // namespace ddipp::engine
