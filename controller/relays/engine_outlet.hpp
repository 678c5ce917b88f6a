// Sends to engines through a router socket. Messages for an engine whose connection is not up yet,
// or is down for a moment, keep their order and are tried again until a deadline.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>

#include "protocol/net/multipart.hpp"
#include "protocol/net/reactor.hpp"

namespace ddipp::controller {

class EngineOutlet {
 public:
  using GiveUp = std::function<void(const std::string& engine, net::Multipart&)>;

  explicit EngineOutlet(zmq::socket_t& socket) : socket_(socket) {}

  // `message` begins with the engine's identity.
  void send(const std::string& engine, net::Multipart message, net::Clock::time_point now);

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

  zmq::socket_t& socket_;
  std::unordered_map<std::string, std::deque<Waiting>> held_;
  net::Clock::time_point next_try_;
};

}  // namespace ddipp::controller
