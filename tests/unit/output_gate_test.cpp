#include "controller/core/output_gate.hpp"

#include <doctest/doctest.h>

using namespace ddipp::controller;
using namespace std::chrono_literals;

namespace {
const TimePoint kStart{};
}

TEST_CASE("output waits until a client that connects has subscribed") {
  OutputGate gate;
  CHECK(gate.open(kStart));
  CHECK_FALSE(gate.next_look());
  gate.on_client_connects(kStart);
  CHECK_FALSE(gate.open(kStart + 5ms));
  CHECK(gate.next_look());
  gate.on_subscribed();
  CHECK(gate.open(kStart + 6ms));
}

TEST_CASE("each client that connects is waited for") {
  OutputGate gate;
  gate.on_client_connects(kStart);
  gate.on_client_connects(kStart + 1ms);
  gate.on_subscribed();
  CHECK_FALSE(gate.open(kStart + 2ms));
  gate.on_subscribed();
  CHECK(gate.open(kStart + 3ms));
  gate.on_subscribed();  // one that has lost its connection and is back
  gate.on_client_connects(kStart + 4ms);
  CHECK_FALSE(gate.open(kStart + 5ms));
}

TEST_CASE("output does not wait for long for one that never subscribes") {
  OutputGate gate;
  gate.on_client_connects(kStart);
  const auto look = gate.next_look();
  REQUIRE(look);
  CHECK_FALSE(gate.open(*look - 1ms));
  CHECK(gate.open(*look));
  CHECK(*look - kStart < 1s);
  CHECK_FALSE(gate.next_look());
}
