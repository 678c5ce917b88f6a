// All sockets of the controller, bound, and the connection files' contents that describe them.
#pragma once

#include <zmq.hpp>

#include "controller/options.hpp"
#include "protocol/connection_file.hpp"

namespace ddipp::controller {

// Clients connect to `front`, engines to `back`.
struct Channel {
  zmq::socket_t front;
  zmq::socket_t back;
};

struct Endpoints {
  // Binds everything; throws std::runtime_error with one line that names address and cause.
  Endpoints(zmq::context_t& context, const Options& options, const std::string& key);

  zmq::socket_t query;         // router: registration of engines, queries of clients
  zmq::socket_t notification;  // pub
  Channel mux;                 // routers: direct requests
  Channel control;             // routers
  Channel task;                // routers: load-balanced requests
  zmq::socket_t iopub_front;   // pub
  zmq::socket_t iopub_back;    // sub
  zmq::socket_t ping;          // xpub
  zmq::socket_t pong;          // router
  Channel broadcast;           // routers

  protocol::ClientConnection client;
  protocol::EngineConnection engine;
};

}  // namespace ddipp::controller
