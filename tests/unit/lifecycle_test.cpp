#include "engine/core/lifecycle.hpp"

#include <doctest/doctest.h>

using namespace ddipp::engine;
using namespace std::chrono_literals;

namespace {
const TimePoint kStart{};
const LifecycleOptions kOptions{1000ms, 200ms, 3000ms, 4};
}  // namespace

TEST_CASE("an engine gives up when the controller does not answer") {
  Lifecycle lifecycle(kOptions, kStart - 2s);
  for (const auto so_long : {0s, 60s, 3600s}) {
    CHECK_FALSE(Lifecycle(kOptions, kStart).tick(kStart + so_long));  // Python still imports
  }
  lifecycle.on_registering(kStart);
  CHECK(lifecycle.next_deadline() == kStart + 1000ms);
  CHECK_FALSE(lifecycle.tick(kStart + 999ms));
  const auto why = lifecycle.tick(kStart + 1000ms);
  REQUIRE(why);
  CHECK(why->find("did not answer the registration within 1 s") != std::string::npos);
}

TEST_CASE("pings are answered once Python and iopub are ready") {
  Lifecycle lifecycle(kOptions, kStart);
  CHECK_FALSE(lifecycle.on_ping(kStart));
  lifecycle.on_registered(100ms, kStart);
  CHECK_FALSE(lifecycle.on_ping(kStart));
  lifecycle.on_python_ready(kStart);
  CHECK_FALSE(lifecycle.on_ping(kStart + 100ms));
  lifecycle.on_iopub_subscribed();
  CHECK_FALSE(lifecycle.take_completed());
  CHECK(lifecycle.on_ping(kStart + 100ms));
  CHECK(lifecycle.take_completed());
  CHECK_FALSE(lifecycle.take_completed());
}

TEST_CASE("a missing iopub subscription delays the first pong only for a while") {
  Lifecycle lifecycle(kOptions, kStart);
  lifecycle.on_registered(100ms, kStart);
  lifecycle.on_python_ready(kStart);
  CHECK_FALSE(lifecycle.on_ping(kStart + 199ms));
  CHECK(lifecycle.on_ping(kStart + 200ms));
}

TEST_CASE(
    "while startup code runs the registration is renewed, and once more before the first pong") {
  Lifecycle lifecycle({1000ms, 200ms, 30'000ms, 0}, kStart);
  lifecycle.on_registering(kStart);
  lifecycle.on_registered(100ms, kStart);
  lifecycle.on_iopub_subscribed();
  CHECK_FALSE(lifecycle.take_renewal(kStart + 999ms));
  CHECK(lifecycle.next_deadline() == kStart + 1000ms);
  CHECK(lifecycle.take_renewal(kStart + 1000ms));
  CHECK_FALSE(lifecycle.take_renewal(kStart + 1001ms));
  lifecycle.on_known();
  lifecycle.on_python_ready(kStart + 1500ms);
  CHECK_FALSE(lifecycle.on_ping(kStart + 1500ms));
  CHECK(lifecycle.take_renewal(kStart + 1500ms));
  CHECK_FALSE(lifecycle.on_ping(kStart + 1600ms));
  CHECK(lifecycle.next_deadline() == kStart + 2500ms);
  CHECK_FALSE(lifecycle.tick(kStart + 2499ms));
  SUBCASE("the controller knows it") {
    lifecycle.on_known();
    CHECK(lifecycle.on_ping(kStart + 2499ms));
    CHECK_FALSE(lifecycle.tick(kStart + 9000ms));
  }
  SUBCASE("the controller is silent") { CHECK(lifecycle.tick(kStart + 2500ms)); }
}

TEST_CASE("a quick start needs no second registration") {
  Lifecycle lifecycle(kOptions, kStart);
  lifecycle.on_registering(kStart);
  lifecycle.on_registered(100ms, kStart);
  lifecycle.on_iopub_subscribed();
  lifecycle.on_python_ready(kStart + 900ms);
  CHECK_FALSE(lifecycle.take_renewal(kStart + 5000ms));
  CHECK(lifecycle.on_ping(kStart + 900ms));
}

TEST_CASE("a slow start says what it waits for, ever more rarely") {
  Lifecycle lifecycle(kOptions, kStart);
  CHECK_FALSE(lifecycle.take_notice(kStart + 4999ms));
  CHECK(*lifecycle.take_notice(kStart + 5s) ==
        "waiting for Python's imports before registering: 5 s so far");
  CHECK_FALSE(lifecycle.take_notice(kStart + 9s));
  lifecycle.on_registered(100ms, kStart + 9s);
  CHECK(*lifecycle.take_notice(kStart + 10s) ==
        "waiting for startup code, extensions and -c or -s: 10 s so far");
  lifecycle.on_python_ready(kStart + 11s);
  CHECK_FALSE(lifecycle.take_notice(kStart + 99s));
}

TEST_CASE("a silent controller is given up after the allowed misses") {
  Lifecycle lifecycle(kOptions, kStart);
  lifecycle.on_registered(100ms, kStart);
  lifecycle.on_python_ready(kStart);
  lifecycle.on_ping(kStart + 1000ms);
  CHECK(lifecycle.next_deadline() == kStart + 3400ms);  // 4 checks of 100 ms + 500 ms
  CHECK_FALSE(lifecycle.tick(kStart + 3399ms));
  CHECK(lifecycle.tick(kStart + 3400ms));
}

TEST_CASE("a lost connection ends the engine unless it comes back") {
  LifecycleOptions options = kOptions;
  options.max_heartbeat_misses = 0;
  Lifecycle lifecycle(options, kStart);
  lifecycle.on_registered(100ms, kStart);
  lifecycle.on_python_ready(kStart);
  CHECK_FALSE(lifecycle.next_deadline());
  lifecycle.on_disconnected(kStart);
  lifecycle.on_disconnected(kStart + 1000ms);  // counts from the first
  CHECK(lifecycle.next_deadline() == kStart + 3000ms);
  lifecycle.on_connected();
  CHECK_FALSE(lifecycle.tick(kStart + 9000ms));
  lifecycle.on_disconnected(kStart + 9000ms);
  CHECK(lifecycle.tick(kStart + 12'000ms));
}
