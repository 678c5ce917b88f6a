// Messages for engines that are registered but whose connection is not up yet, or is down for a
// moment. They keep their order and are tried again until a deadline.
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

class HeldMessages {
 public:
  using TrySend = std::function<net::SendStatus(net::Multipart&)>;
  using GiveUp = std::function<void(const std::string& engine, net::Multipart&)>;

  bool holds_for(const std::string& engine) const { return held_.contains(engine); }
  void hold(const std::string& engine, net::Multipart message, net::Clock::time_point now);

  // Sends what can be sent; hands over what has waited too long.
  void retry(net::Clock::time_point now, const TrySend& try_send, const GiveUp& give_up);

  // Takes out everything held for an engine that is gone.
  std::deque<net::Multipart> release(const std::string& engine);

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

  std::unordered_map<std::string, std::deque<Waiting>> held_;
  net::Clock::time_point next_try_;
};

}  // namespace ddipp::controller
