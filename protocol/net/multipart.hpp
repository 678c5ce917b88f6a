// Multipart ZeroMQ messages. Frames are moved between sockets, never copied.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <zmq.hpp>

namespace ddipp::net {

using Multipart = std::vector<zmq::message_t>;

inline std::string_view view(const zmq::message_t& frame) {
  return {static_cast<const char*>(frame.data()), frame.size()};
}

inline zmq::message_t make_frame(std::string_view bytes) { return {bytes.data(), bytes.size()}; }

std::vector<std::string_view> views(const Multipart& message);

Multipart make_multipart(const std::vector<std::string>& frames);

// Takes one whole message without waiting; false when none is there.
bool receive(zmq::socket_t& socket, Multipart& message);

enum class SendStatus { sent, unreachable, would_block };

// Sends without waiting. `unreachable` is a router socket's word for an unknown peer; the message
// is then left as it was, and also on would_block.
SendStatus send(zmq::socket_t& socket, Multipart& message);

}  // namespace ddipp::net
