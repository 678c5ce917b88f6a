// Counts the pings that each engine leaves unanswered. Pure: time comes in as an argument.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "controller/core/registry.hpp"

namespace ddipp::controller {

struct HeartMonitorOptions {
  std::chrono::milliseconds period{3000};
  int max_misses = 10;  // an engine is lost after one more than this, in a row
};

class HeartMonitor {
 public:
  HeartMonitor(HeartMonitorOptions options, TimePoint now)
      : options_(options), next_beat_(now + options.period) {}

  void watch(const std::string& uuid) { hearts_[uuid] = Heart{}; }
  void forget(const std::string& uuid) { hearts_.erase(uuid); }

  // Any answer, also a late one, is a sign of life.
  void pong(const std::string& uuid);

  TimePoint next_deadline() const { return next_beat_; }

  // At next_deadline(): counts, and returns the engines that are lost now (and forgotten). The
  // caller sends the next ping.
  std::vector<std::string> beat(TimePoint now);

  // The payload of the next ping; every ping gets another one.
  std::string next_payload() { return std::to_string(++pings_); }
  unsigned long pings() const { return pings_; }

  std::chrono::milliseconds period() const { return options_.period; }

 private:
  struct Heart {
    bool answered = true;  // a heart that was just found starts with a full period
    int misses = 0;
  };

  HeartMonitorOptions options_;
  TimePoint next_beat_;
  std::unordered_map<std::string, Heart> hearts_;
  unsigned long pings_ = 0;
};

}  // namespace ddipp::controller
