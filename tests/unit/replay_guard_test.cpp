#include "protocol/replay_guard.hpp"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <vector>

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

TEST_CASE("what a sender numbered before a forgotten message stays refused") {
  ReplayGuard guard(4);
  CHECK(guard.accept("first", "client_7_1"));
  CHECK(guard.accept("unnumbered", "no number"));
  for (int i = 0; i < 100; ++i) {
    const std::string number = std::to_string(i);
    CHECK(guard.accept("other" + number, "other_7_" + number));
  }
  CHECK_FALSE(guard.accept("first", "client_7_1"));
  CHECK_FALSE(guard.accept("older", "client_7_0"));
  CHECK(guard.accept("later", "client_7_2"));
  CHECK_FALSE(guard.accept("another", "other_7_50"));
  CHECK(guard.accept("unnumbered", "no number"));  // of those only the last ones are known
}

TEST_CASE("messages that overtake each other a little are accepted") {
  ReplayGuard guard(4);
  for (int i = 0; i < 100; i += 2) {
    CHECK(guard.accept("b" + std::to_string(i), "client_" + std::to_string(i + 1)));
    CHECK(guard.accept("a" + std::to_string(i), "client_" + std::to_string(i)));
  }
}

TEST_CASE("a guard goes on where the last one with its memory ended") {
  constexpr std::size_t limit = 4;
  std::vector<std::uint64_t> memory(ReplayGuard::words(limit));
  {
    ReplayGuard guard(limit, memory);
    for (int i = 0; i < 10; ++i) {
      CHECK(guard.accept("s" + std::to_string(i), "client_" + std::to_string(i)));
    }
  }
  ReplayGuard guard(limit, memory);
  CHECK(guard.size() == limit);
  for (int i = 0; i < 10; ++i) {
    CHECK_FALSE(guard.accept("s" + std::to_string(i), "client_" + std::to_string(i)));
  }
  CHECK(guard.accept("s10", "client_10"));
}

TEST_CASE("memory that somebody else filled makes no guard fail") {
  constexpr std::size_t limit = 4;
  std::vector<std::uint64_t> memory(ReplayGuard::words(limit), ~std::uint64_t{0});
  ReplayGuard guard(limit, memory);
  for (int i = 0; i < 20; ++i) guard.accept(std::to_string(i), "client_" + std::to_string(i));
  CHECK(guard.size() == limit);
}
