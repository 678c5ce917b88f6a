#include "controller/core/heart_monitor.hpp"

#include <doctest/doctest.h>

using namespace ddipp::controller;
using namespace std::chrono_literals;

namespace {
const TimePoint kStart{};
const HeartMonitorOptions kOptions{100ms, 2};
}  // namespace

TEST_CASE("an engine that answers is never lost") {
  HeartMonitor monitor(kOptions, kStart);
  monitor.watch("a");
  auto now = kStart;
  for (int i = 0; i < 20; ++i) {
    now += 100ms;
    CHECK(monitor.beat(now).empty());
    monitor.pong("a");
  }
}

TEST_CASE("an engine is lost after one more than the allowed misses in a row") {
  HeartMonitor monitor(kOptions, kStart);
  monitor.watch("a");
  CHECK(monitor.beat(kStart + 100ms).empty());  // the period in which it was found
  CHECK(monitor.beat(kStart + 200ms).empty());
  CHECK(monitor.beat(kStart + 300ms).empty());
  CHECK(monitor.beat(kStart + 400ms) == std::vector<std::string>{"a"});
  CHECK(monitor.beat(kStart + 500ms).empty());
}

TEST_CASE("one answer, also a late one, starts the count again") {
  HeartMonitor monitor(kOptions, kStart);
  monitor.watch("a");
  for (int i = 1; i <= 3; ++i) CHECK(monitor.beat(kStart + i * 100ms).empty());
  monitor.pong("a");
  for (int i = 4; i <= 6; ++i) CHECK(monitor.beat(kStart + i * 100ms).empty());
  CHECK(monitor.beat(kStart + 700ms).size() == 1);
}

TEST_CASE("after a long stop of the controller no engine is blamed for the missed beats") {
  HeartMonitor monitor(kOptions, kStart);
  monitor.watch("a");
  CHECK(monitor.beat(kStart + 1h).empty());
  CHECK(monitor.next_deadline() == kStart + 1h + 100ms);
  monitor.pong("a");
  CHECK(monitor.beat(kStart + 1h + 100ms).empty());
}

TEST_CASE("pongs of strangers and forgotten engines do nothing") {
  HeartMonitor monitor(kOptions, kStart);
  monitor.pong("x");
  monitor.watch("a");
  monitor.forget("a");
  for (int i = 1; i < 10; ++i) CHECK(monitor.beat(kStart + i * 100ms).empty());
}

TEST_CASE("every ping has a payload of its own") {
  HeartMonitor monitor(kOptions, kStart);
  CHECK(monitor.next_payload() != monitor.next_payload());
}
