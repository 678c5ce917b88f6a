// When the engines' output may be passed on. Pure: times go in.
#pragma once

#include <chrono>
#include <deque>
#include <optional>

#include "controller/core/registry.hpp"

namespace ddipp::controller {

// A client sends its first request on one connection while it still opens the one that output comes
// by. What is published before it has subscribed there it never gets, and it waits for the end of
// its output for ever. So output is held from a client's connection_request until its subscription.
class OutputGate {
 public:
  // It asked where to connect to.
  void on_client_connects(TimePoint now) { expected_.push_back(now + kPatience); }

  // Somebody has subscribed to output. Who that is does not show, so it counts for the first.
  void on_subscribed() {
    if (!expected_.empty()) expected_.pop_front();
  }

  bool open(TimePoint now) {
    while (!expected_.empty() && expected_.front() <= now) expected_.pop_front();
    return expected_.empty();
  }

  // When to look again by open().
  std::optional<TimePoint> next_look() const {
    if (expected_.empty()) return std::nullopt;
    return expected_.front();
  }

 private:
  // Some who ask never subscribe, such as `dipcluster status`.
  static constexpr std::chrono::milliseconds kPatience{250};

  std::deque<TimePoint> expected_;
};

}  // namespace ddipp::controller
