// All sockets of the controller, bound.
#pragma once

#include <cstdint>

#include <zmq.hpp>

#include "controller/connection_plan.hpp"

namespace ddipp::controller {

// Clients connect to `front`, engines to `back`.
struct Channel {
  zmq::socket_t front;
  zmq::socket_t back;
};

// What ZeroMQ may hold for peers before anybody has looked at it.
struct Limits {
  std::int64_t message = 0;  // bytes of a frame; whoever sends a larger one is disconnected
  int output = 0;            // messages that a subscriber to output has not read yet; more are lost
};

struct Endpoints {
  // Binds everything and writes the ports that were free into the plan; throws std::runtime_error
  // with one line that names address and cause.
  Endpoints(zmq::context_t& context, ConnectionPlan& plan, const Limits& limits);

  // Whether a peer may take over the identity of one that is connected to an engines' socket.
  void set_handover(bool on);

  zmq::socket_t query;         // router: registration of engines, queries of clients
  zmq::socket_t notification;  // xpub
  Channel mux;                 // routers: direct requests
  Channel control;             // routers
  Channel task;                // routers: load-balanced requests
  zmq::socket_t iopub_front;   // xpub
  zmq::socket_t iopub_back;    // sub
  zmq::socket_t ping;          // xpub
  zmq::socket_t pong;          // router
  Channel broadcast;           // routers
};

}  // namespace ddipp::controller
