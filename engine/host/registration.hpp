// The outcome of the registration, awaited by the Python thread.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>

#include "protocol/result.hpp"

namespace ddipp::engine {

class Registration {
 public:
  void succeed(int id) { settle(Result<int>(id)); }
  void fail(const std::string& line) { settle(Result<int>(Failure{line})); }

  // Blocks until one of the above; call without the GIL.
  Result<int> wait() {
    std::unique_lock lock(mutex_);
    settled_.wait(lock, [this] { return outcome_.has_value(); });
    return *outcome_;
  }

 private:
  void settle(Result<int> outcome) {
    {
      const std::lock_guard lock(mutex_);
      if (!outcome_) outcome_ = std::move(outcome);
    }
    settled_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable settled_;
  std::optional<Result<int>> outcome_;
};

}  // namespace ddipp::engine
