#include "controller/core/registry.hpp"

#include <limits>
#include <random>
#include <set>

#include <doctest/doctest.h>

using namespace ddipp::controller;
using namespace std::chrono_literals;

namespace {
const TimePoint kStart{};
}

TEST_CASE("ids count from 0 and are not used again") {
  Registry registry;
  CHECK(*registry.begin("a", {}, kStart) == 0);
  CHECK(*registry.begin("b", {}, kStart) == 1);
  CHECK(registry.finish("b")->id == 1);
  CHECK(registry.remove(1)->uuid == "b");
  CHECK(*registry.begin("c", {}, kStart) == 2);
}

TEST_CASE("a wished id is granted when it is free") {
  Registry registry;
  CHECK(*registry.begin("a", 5, kStart) == 5);
  CHECK(*registry.begin("b", 5, kStart) == 6);
  registry.finish("a");
  CHECK(*registry.begin("c", 5, kStart) == 7);
  registry.remove(5);
  CHECK(*registry.begin("d", 5, kStart) == 5);
  CHECK(*registry.begin("e", -1, kStart) == 8);
}

TEST_CASE("a uuid registers once, pending or finished") {
  Registry registry;
  CHECK(registry.begin("a", {}, kStart));
  CHECK(registry.begin("a", {}, kStart).error() == "uuid 'a' in use");
  registry.finish("a");
  CHECK_FALSE(registry.begin("a", {}, kStart));
  registry.remove(0);
  CHECK(registry.begin("a", {}, kStart));
  CHECK_FALSE(registry.begin("", {}, kStart));
}

TEST_CASE("a registration that never finishes lapses at its deadline") {
  Registry registry;
  REQUIRE(registry.begin("a", {}, kStart + 1s));
  REQUIRE(registry.begin("b", {}, kStart + 2s));
  CHECK(registry.next_deadline() == kStart + 1s);
  CHECK(registry.drop_stalled(kStart).empty());
  const auto dropped = registry.drop_stalled(kStart + 1s);
  REQUIRE(dropped.size() == 1);
  CHECK(dropped.front().uuid == "a");
  CHECK_FALSE(registry.finish("a"));
  CHECK(registry.finish("b"));
  CHECK_FALSE(registry.next_deadline());
}

TEST_CASE("an engine that is still starting renews its registration under its id") {
  Registry registry;
  REQUIRE(registry.begin("a", {}, kStart + 1s));
  CHECK(*registry.begin("a", 0, kStart + 3s) == 0);
  CHECK_FALSE(registry.begin("a", 1, kStart + 9s));
  CHECK(registry.drop_stalled(kStart + 2s).empty());
  CHECK(registry.drop_stalled(kStart + 3s).size() == 1);
  CHECK(*registry.begin("a", 0, kStart + 9s) == 0);  // after it was dropped, too
  CHECK(registry.finish("a"));
  CHECK(registry.begin("a", 0, kStart + 9s).error() == "uuid 'a' in use");
}

TEST_CASE("in any order of events ids stay unique and both directions agree") {
  for (unsigned seed = 0; seed < 500; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    Registry registry;
    auto now = kStart;
    for (int step = 0; step < 200; ++step) {
      const std::string uuid(1, static_cast<char>('a' + random() % 8));
      now += std::chrono::milliseconds(random() % 50);
      switch (random() % 4) {
        case 0: {
          const auto wish =
              random() % 2 == 0 ? std::optional(static_cast<int>(random() % 6)) : std::nullopt;
          (void)registry.begin(uuid, wish, now + 100ms);
          break;
        }
        case 1:
          registry.finish(uuid);
          break;
        case 2:
          registry.remove(static_cast<int>(random() % 8));
          break;
        default:
          registry.drop_stalled(now);
      }
      std::set<std::string> uuids;
      for (const auto& [id, engine] : registry.engines()) {
        CHECK(engine.id == id);
        CHECK(uuids.insert(engine.uuid).second);
        REQUIRE(registry.find(engine.uuid));
        CHECK(registry.find(engine.uuid)->id == id);
      }
    }
  }
}

TEST_CASE("the highest number is no id, and ids end with an error") {
  Registry registry;
  CHECK(*registry.begin("a", std::numeric_limits<int>::max(), kStart) == 0);
  CHECK(*registry.begin("b", kMaxId - 1, kStart) == kMaxId - 1);
  CHECK(registry.begin("c", {}, kStart).error() == "there are no more ids");
  CHECK(*registry.begin("d", 7, kStart) == 7);
  registry.reserve_ids(std::numeric_limits<int>::max());
  CHECK(registry.next_id() == kMaxId);
  CHECK_FALSE(registry.restore({std::numeric_limits<int>::max(), "e"}));
}

TEST_CASE("who connects by a route of its own is no stock engine") {
  Registry registry;
  CHECK_FALSE(registry.has_stock_engine());
  CHECK(registry.begin("ours", {}, kStart, "ours.code"));
  CHECK(registry.has_route("ours"));
  CHECK(registry.finish("ours")->route == "ours.code");
  CHECK(registry.get("ours")->route == "ours.code");
  CHECK(registry.has_route("ours"));
  CHECK_FALSE(registry.has_stock_engine());
  CHECK(registry.begin("stock", {}, kStart));
  CHECK(registry.has_stock_engine());
  CHECK_FALSE(registry.has_route("stock"));
  registry.finish("stock");
  CHECK(registry.has_stock_engine());
  registry.remove(1);
  CHECK_FALSE(registry.has_stock_engine());
}
