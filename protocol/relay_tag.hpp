// What our controller and our engines agree on beside the protocol, both made with the key:
//
// A route is the routing identity by which an engine connects: its uuid, which everybody may know,
// and a code that only a holder of the key can make. So nobody else can take its place.
//
// A relay tag is one more frame of a request's routing prefix, between client and delimiter. It
// binds the buffers, which Jupyter's signature leaves out, to the request, the request to one
// engine, and both to a number that grows: what is recorded can't be sent again, nor with other
// buffers. The engine takes it off; stock engines don't get it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "protocol/session.hpp"

namespace ddipp::protocol {

// Version of both, said at the registration.
inline constexpr int kRelayVersion = 1;

std::string make_route(const Session& session, const std::string& uuid);
// The uuid in a route, or the whole of an identity that is none.
std::string_view uuid_of(std::string_view route);
bool is_route(std::string_view identity);
// Made with the key.
bool is_genuine(const Session& session, std::string_view route);

// "" for none. Buffers are hashed once, however many engines get them.
std::string buffers_code(const Session& session, std::span<const std::string_view> buffers);

enum class RelayChannel : unsigned char { mux, control, task, broadcast };

// One for each channel of a controller.
class RelayTags {
 public:
  // `epoch` is greater than that of every earlier controller with this key.
  RelayTags(RelayChannel channel, std::uint64_t epoch) : channel_(channel), epoch_(epoch) {}

  std::string make(const Session& session, std::string_view uuid, std::string_view signature,
                   std::string_view buffers_code);

 private:
  RelayChannel channel_;
  std::uint64_t epoch_;
  std::uint64_t count_ = 0;
};

bool is_relay_tag(std::string_view frame);

// One for each engine.
class RelayCheck {
 public:
  // Whether the tag belongs to this message and was not here before.
  bool accept(const Session& session, std::string_view tag, std::string_view uuid,
              std::string_view signature, std::string_view buffers_code);

 private:
  struct Last {
    std::uint64_t epoch = 0, count = 0;
  };
  std::array<Last, 4> last_;  // by channel
};

}  // namespace ddipp::protocol
