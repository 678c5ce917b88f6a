// Logs what peers send wrongly: the first of a kind at once, the rest as one line a minute, so that
// a flood of garbage costs a line and nothing else.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <spdlog/logger.h>

namespace ddipp::controller {

class Complaints {
 public:
  explicit Complaints(spdlog::logger& log) : log_(log) {}

  // `where` and `why` come from a small set of texts.
  void add(std::string_view where, std::string_view why,
           std::chrono::steady_clock::time_point now) {
    Kind& kind = kinds_[{std::string(where), std::string(why)}];
    if (kind.count > 0 && now < kind.quiet_until) {
      ++kind.count;
      return;
    }
    if (kind.count > 1) {
      log_.warn("ignored {} more messages on {}: {}", kind.count - 1, where, why);
    }
    log_.warn("ignored a message on {}: {}", where, why);
    kind = {1, now + std::chrono::minutes(1)};
  }

 private:
  struct Kind {
    unsigned long count = 0;
    std::chrono::steady_clock::time_point quiet_until;
  };

  spdlog::logger& log_;
  std::map<std::pair<std::string, std::string>, Kind> kinds_;
};

}  // namespace ddipp::controller
