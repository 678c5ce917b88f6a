#include "controller/core/linger.hpp"

#include <doctest/doctest.h>

#include "controller/core/ration.hpp"

using namespace ddipp::controller;
using namespace std::chrono_literals;

TEST_CASE("who may be anybody makes the end come later, but not never") {
  const TimePoint start{};
  Linger linger(5s, start);
  linger.on_clients(true, start, false);
  CHECK_FALSE(linger.over(false, start + 40s));
  linger.on_clients(false, start + 41s, false);  // coming and going changes nothing
  linger.on_clients(true, start + 42s, false);
  CHECK(linger.over(false, start + 51s));
}

TEST_CASE("the time counts from the end of the last client that has the key") {
  const TimePoint start{};
  Linger linger(5s, start);
  linger.on_clients(true, start + 1s);
  CHECK_FALSE(linger.over(false, start + 1000s));
  linger.on_clients(false, start + 1001s);
  CHECK_FALSE(linger.over(false, start + 1005s));
  CHECK(linger.over(false, start + 1006s));
}

TEST_CASE("a ration is so many a second") {
  const auto start = Ration::TimePoint{} + 100s;
  Ration ration(3);
  int taken = 0;
  for (int i = 0; i < 100; ++i) taken += ration.take(start) ? 1 : 0;
  CHECK(taken == 3);
  CHECK_FALSE(ration.take(start + 900ms));
  CHECK(ration.take(start + 1s));
}
