// What goes into the connection files before the sockets are bound: the addresses and ports that
// the options or an earlier controller's files ask for.
#pragma once

#include <string>

#include "controller/options.hpp"
#include "protocol/connection_file.hpp"

namespace ddipp::controller {

struct ConnectionPlan {
  protocol::ClientConnection client;  // port 0 is any free one
  protocol::EngineConnection engine;
  std::string curve_secret_key;  // "" without CURVE
  bool reused = false;           // the files stay as they are
  std::string note;              // why an earlier controller's files could not be used, "" if so
};

// Throws std::runtime_error with one line when the options can't be met.
ConnectionPlan plan_connections(const Options& options);

}  // namespace ddipp::controller
