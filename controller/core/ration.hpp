// So many a second and no more. Pure: times go in.
#pragma once

#include <chrono>

namespace ddipp::controller {

class Ration {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit Ration(unsigned a_second) : a_second_(a_second) {}

  bool take(TimePoint now) {
    if (now - since_ >= std::chrono::seconds(1)) {
      since_ = now;
      taken_ = 0;
    }
    return taken_++ < a_second_;
  }

 private:
  unsigned a_second_;
  unsigned taken_ = 0;
  TimePoint since_;
};

}  // namespace ddipp::controller
