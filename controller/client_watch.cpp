#include "controller/client_watch.hpp"

#include <cstdint>
#include <cstring>

namespace ddipp::controller {

ClientWatch::ClientWatch(zmq::context_t& context, zmq::socket_t& query)
    : events_(context, zmq::socket_type::pair) {
  constexpr const char* address = "inproc://query-monitor";
  constexpr int wanted = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED;
  if (zmq_socket_monitor(query.handle(), address, wanted) != 0) throw zmq::error_t();
  events_.connect(address);
}

void ClientWatch::on_event(const net::Multipart& event) {
  std::uint16_t kind = 0;
  std::uint32_t descriptor = 0;
  const auto frame = net::view(event.front());
  if (frame.size() < sizeof kind + sizeof descriptor) return;
  std::memcpy(&kind, frame.data(), sizeof kind);
  std::memcpy(&descriptor, frame.data() + sizeof kind, sizeof descriptor);
  const int fd = static_cast<int>(descriptor);
  proven_.erase(fd);  // a number that is used again is somebody else's
  if (kind == ZMQ_EVENT_ACCEPTED) {
    open_.insert(fd);
  } else {
    open_.erase(fd);
  }
}

void ClientWatch::on_request(net::Multipart& message) {
  // What has happened to its connection until now counts first.
  net::Multipart event;
  while (net::receive(events_, event)) on_event(event);
  const int fd = zmq_msg_get(message.back().handle(), ZMQ_SRCFD);
  if (open_.contains(fd)) proven_.insert(fd);
}

}  // namespace ddipp::controller
