#include "protocol/replay_guard.hpp"

#include <doctest/doctest.h>

using ddipp::protocol::ReplayGuard;

TEST_CASE("a signature is accepted once") {
  ReplayGuard guard;
  CHECK(guard.accept("a"));
  CHECK_FALSE(guard.accept("a"));
  CHECK(guard.accept("b"));
}

TEST_CASE("the guard forgets the oldest signature beyond its limit") {
  ReplayGuard guard(2);
  CHECK(guard.accept("a"));
  CHECK(guard.accept("b"));
  CHECK(guard.accept("c"));
  CHECK(guard.size() == 2);
  CHECK(guard.accept("a"));
  CHECK_FALSE(guard.accept("c"));
}
