#include "controller/core/routing.hpp"

#include <doctest/doctest.h>

using namespace ddipp::controller;

TEST_CASE("the identities of client and engine change places both ways") {
  std::vector<std::string> frames{"client", "engine", "rest"};
  CHECK(swap_identities(frames));
  CHECK(frames == std::vector<std::string>{"engine", "client", "rest"});
  std::vector<std::string> short_frames{"client", "engine"};
  CHECK_FALSE(swap_identities(short_frames));
}

TEST_CASE("what a client reads of a dead engine names it, the request and the cause") {
  CHECK(death_text("3", "m", "it was shut down") ==
        "Engine 3 died while running task 'm': it was shut down");
}

TEST_CASE("the presence topic names an engine and where it is") {
  CHECK(parse_presence_topic("engine:local:abc")->uuid == "abc");
  CHECK(parse_presence_topic("engine:local:abc")->local);
  CHECK_FALSE(parse_presence_topic("engine:remote:abc")->local);
  CHECK_FALSE(parse_presence_topic(""));
  CHECK_FALSE(parse_presence_topic("engine:abc"));
}
