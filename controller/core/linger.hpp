// How long a cluster outlives its last client. Pure: times go in.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

#include "controller/core/registry.hpp"

namespace ddipp::controller {

// Counts the time in which no client is connected and nothing runs.
class Linger {
 public:
  // `patience` of zero: for ever.
  Linger(std::chrono::seconds patience, TimePoint now) : patience_(patience), since_(now) {}

  // `proven`: it has the key. Others may be a client whose connection broke and came back, or
  // anybody: they make the end come later, but not never.
  void on_clients(bool present, TimePoint now, bool proven = true) {
    somebody_ = present;
    if (clients_ == (present && proven)) return;
    clients_ = !clients_;
    since_ = looked_ = now;
  }

  // Whether it is over. `busy`: requests are under way, also those of a client that is gone.
  bool over(bool busy, TimePoint now) {
    if (patience_.count() == 0) return false;
    if (clients_ || busy) since_ = now;
    looked_ = now;
    return now - since_ >= (somebody_ ? kDoubt : 1) * patience_;
  }

  // When to call over() next.
  std::optional<TimePoint> next_look() const {
    if (patience_.count() == 0 || clients_) return std::nullopt;
    return std::min(since_ + (somebody_ ? kDoubt : 1) * patience_, looked_ + kPeriod);
  }

 private:
  static constexpr std::chrono::seconds kPeriod{1};
  static constexpr int kDoubt = 10;

  std::chrono::seconds patience_;
  bool clients_ = false;
  bool somebody_ = false;
  TimePoint since_;
  TimePoint looked_ = since_;
};

}  // namespace ddipp::controller
