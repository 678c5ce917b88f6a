#include "engine/core/ssh_command.hpp"

#include <algorithm>

#include <doctest/doctest.h>

using namespace ddipp::engine;
using ddipp::protocol::Json;

namespace {

Json connection() {
  return Json{{"interface", "tcp://*"},
              {"location", "login1"},
              {"registration", 1},
              {"control", 2},
              {"mux", 3},
              {"task", 4},
              {"iopub", 5},
              {"hb_ping", 6},
              {"hb_pong", 7},
              {"broadcast", {8, 9}},
              {"key", "secret"}};
}

bool has(const std::vector<std::string>& arguments, const std::string& one) {
  return std::find(arguments.begin(), arguments.end(), one) != arguments.end();
}

}  // namespace

TEST_CASE("every port of an engine's connection goes through the tunnel") {
  CHECK(*ports_of(connection()) == std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8, 9});
  std::vector<Forward> forwards;
  for (int port = 1; port <= 9; ++port) forwards.push_back({1000 + port, port});
  const Json local = through(connection(), forwards);
  CHECK(local["interface"] == "tcp://127.0.0.1");
  CHECK(local["hb_pong"] == 1007);
  CHECK(local["broadcast"] == Json{1008, 1009});
  CHECK(local["key"] == "secret");
}

TEST_CASE("ssh asks nothing, and its checks of host keys are left alone") {
  const auto arguments = ssh_arguments("me@gate:2222", "/key", connection(), {{1001, 1}});
  CHECK(arguments.front() == "ssh");
  CHECK(arguments.back() == "me@gate");
  CHECK(has(arguments, "2222"));
  CHECK(has(arguments, "/key"));
  CHECK(has(arguments, "BatchMode=yes"));
  CHECK(has(arguments, "127.0.0.1:1001:login1:1"));
  for (const auto& argument : arguments) CHECK(argument.find("HostKey") == std::string::npos);
  CHECK_FALSE(has(ssh_arguments("gate", "", connection(), {}), "-i"));
}

TEST_CASE("what can't be tunnelled is said") {
  Json incomplete = connection();
  incomplete.erase("mux");
  CHECK(ports_of(incomplete).error().find("'mux'") != std::string::npos);
  CHECK(ports_of(Json{{"interface", "ipc:///tmp/x"}}).error().find("tcp") != std::string::npos);
}
