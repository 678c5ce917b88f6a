// Which clients are connected to the hub: those that have sent a signed request by a connection
// that is still open. A subscription proves nothing: anybody can have one.
#pragma once

#include <set>

#include <zmq.hpp>

#include "protocol/net/multipart.hpp"

namespace ddipp::controller {

class ClientWatch {
 public:
  ClientWatch(zmq::context_t& context, zmq::socket_t& query);

  // Readable when connections came or went; on_event() takes what it has.
  zmq::socket_t& events() { return events_; }
  void on_event(const net::Multipart& event);

  // A client's request, whose signature was right, came as `message`.
  void on_request(net::Multipart& message);

  bool any() const { return !proven_.empty(); }

 private:
  zmq::socket_t events_;
  std::set<int> open_;    // descriptors of connections
  std::set<int> proven_;  // those of clients
};

}  // namespace ddipp::controller
