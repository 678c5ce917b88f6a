// Sends to engines through a router socket. Messages for an engine whose connection is not up yet,
// or is down for a moment, keep their order and are tried again until a deadline. What goes to an
// engine of ours goes by its route and with a relay tag.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>

#include "controller/relays/channel_services.hpp"
#include "protocol/net/multipart.hpp"
#include "protocol/net/reactor.hpp"
#include "protocol/relay_tag.hpp"

namespace ddipp::controller {

class EngineOutlet {
 public:
  using GiveUp = std::function<void(const std::string& engine, net::Multipart&)>;

  EngineOutlet(zmq::socket_t& socket, const ChannelServices& services,
               protocol::RelayChannel channel)
      : socket_(socket), services_(services), tags_(channel, services.guards.epoch()) {}

  // `engine` is a uuid, with which `message` begins. `buffers_code` is for those who send the same
  // buffers to many: filled in when it is needed, used when it is there.
  void send(const std::string& engine, net::Multipart message, net::Clock::time_point now,
            std::optional<std::string>* buffers_code = nullptr);

  // Sends what can be sent by now; hands over what has waited too long.
  void retry(net::Clock::time_point now, const GiveUp& give_up);

  // Drops what is held for an engine that is gone.
  void forget(const std::string& engine) { held_.erase(engine); }

  std::optional<net::Clock::time_point> next_deadline() const {
    return held_.empty() ? std::nullopt : std::optional(next_try_);
  }

 private:
  struct Waiting {
    net::Multipart message;
    net::Clock::time_point give_up;
  };

  static constexpr std::chrono::milliseconds kRetryInterval{10};
  static constexpr std::chrono::seconds kPatience{5};

  void address(const Engine& engine, net::Multipart& message,
               std::optional<std::string>* buffers_code);

  zmq::socket_t& socket_;
  ChannelServices services_;
  protocol::RelayTags tags_;
  std::unordered_map<std::string, std::deque<Waiting>> held_;
  net::Clock::time_point next_try_;
};

// An engine's reply begins with its route, which becomes its uuid.
void name_by_uuid(net::Multipart& reply);

}  // namespace ddipp::controller
