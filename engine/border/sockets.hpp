// The sockets of an engine, all connected to the controller, all with the same identity: a route
// with a controller of ours, the engine's uuid with another one.
#pragma once

#include <set>
#include <string>

#include <zmq.hpp>

#include "engine/host/request.hpp"
#include "protocol/connection_file.hpp"
#include "protocol/net/curve.hpp"

namespace ddipp::engine {

class Sockets {
 public:
  // Connects the registrar only. Throws std::runtime_error for an interface that can't be used.
  Sockets(const protocol::EngineConnection& connection, std::string identity);

  // The rest, once the engine has its id and knows its controller.
  void connect_channels(int id, std::string identity);

  // Lets Jupyter frontends of this machine connect too, who get to see `identity`. Throws
  // zmq::error_t.
  BoundPorts bind_kernel(const std::string& identity);

  // Closes all and waits until what was sent has left, at most the linger time of a second.
  void close();

  const std::string& registration_url() const { return registration_url_; }

  // Topic whose subscription tells the controller at once when this engine's connection is gone. A
  // connection within one machine does not fail: its end is the end of the process.
  std::string presence_topic() const;

  // TCP ports of the controller that these sockets are connected to, and their own.
  std::set<int> ports() const;

 private:
  std::string url(int port) const;
  zmq::socket_t make(zmq::socket_type type);

  protocol::EngineConnection connection_;
  std::string identity_;
  std::string host_;  // transport://address to connect to
  bool ipc_ = false;
  std::set<int> bound_ports_;
  net::CurveKeys curve_;
  zmq::context_t context_;
  std::string registration_url_;

 public:
  zmq::socket_t registrar;       // dealer
  zmq::socket_t shell;           // router: mux, task, broadcast
  zmq::socket_t control;         // router
  zmq::socket_t iopub;           // xpub
  zmq::socket_t ping;            // sub
  zmq::socket_t pong;            // dealer
  zmq::socket_t monitor;         // pair: connection events of `ping`
  zmq::socket_t standard_input;  // router, once bound as a kernel; nobody is asked for input
  zmq::socket_t heartbeat;       // rep, once bound as a kernel
};

}  // namespace ddipp::engine
