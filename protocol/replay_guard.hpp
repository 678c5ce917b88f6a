// Remembers the signatures of recent messages, so that a recorded message sent again is refused.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_set>

namespace ddipp::protocol {

class ReplayGuard {
 public:
  // The stock Session keeps 2^16 signatures.
  explicit ReplayGuard(std::size_t limit = std::size_t{1} << 16U) : limit_(limit) {}

  // True the first time; false while `signature` is among the last `limit` accepted ones.
  bool accept(std::string_view signature) {
    if (!seen_.emplace(signature).second) return false;
    order_.emplace_back(signature);
    if (order_.size() > limit_) {
      seen_.erase(order_.front());
      order_.pop_front();
    }
    return true;
  }

  std::size_t size() const { return order_.size(); }

 private:
  std::size_t limit_;
  std::deque<std::string> order_;
  std::unordered_set<std::string> seen_;
};

}  // namespace ddipp::protocol
