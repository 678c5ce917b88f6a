#include "protocol/replay_guard.hpp"

#include <algorithm>
#include <deque>
#include <random>
#include <string>

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

TEST_CASE("whatever comes, it knows the last accepted ones and no others") {
  std::mt19937 random(7);
  for (const std::size_t limit : {1U, 3U, 50U}) {
    ReplayGuard guard(limit);
    std::deque<std::string> model;
    for (int i = 0; i < 20'000; ++i) {
      const std::string signature = std::to_string(random() % (3 * limit + 1));
      const bool is_new = std::find(model.begin(), model.end(), signature) == model.end();
      REQUIRE(guard.accept(signature) == is_new);
      if (!is_new) continue;
      model.push_back(signature);
      if (model.size() > limit) model.pop_front();
      REQUIRE(guard.size() == model.size());
    }
  }
}
