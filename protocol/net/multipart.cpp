#include "protocol/net/multipart.hpp"

#include <cerrno>

namespace ddipp::net {

std::vector<std::string_view> views(const Multipart& message) {
  std::vector<std::string_view> result;
  result.reserve(message.size());
  for (const auto& frame : message) result.push_back(view(frame));
  return result;
}

Multipart make_multipart(const std::vector<std::string>& frames) {
  Multipart message;
  message.reserve(frames.size());
  for (const auto& frame : frames) message.push_back(make_frame(frame));
  return message;
}

bool receive(zmq::socket_t& socket, Multipart& message) {
  message.clear();
  while (true) {
    zmq::message_t frame;
    if (!socket.recv(frame, zmq::recv_flags::dontwait)) return false;
    const bool more = frame.more();
    message.push_back(std::move(frame));
    if (!more) return true;
  }
}

SendStatus send(zmq::socket_t& socket, Multipart& message) {
  // Only the first frame can fail: a router picks its peer by it, and libzmq takes the rest of a
  // message that it has begun.
  for (std::size_t i = 0; i < message.size(); ++i) {
    const int flags = ZMQ_DONTWAIT | (i + 1 < message.size() ? ZMQ_SNDMORE : 0);
    if (zmq_msg_send(message[i].handle(), socket.handle(), flags) >= 0) continue;
    if (zmq_errno() == EHOSTUNREACH) return SendStatus::unreachable;
    if (zmq_errno() == EAGAIN) return SendStatus::would_block;
    throw zmq::error_t();
  }
  return SendStatus::sent;
}

}  // namespace ddipp::net
