#include "protocol/address.hpp"

#include <doctest/doctest.h>

using namespace ddipp::protocol;

TEST_CASE("an interface is a transport and an address") {
  const auto interface = parse_interface("tcp://127.0.0.1");
  REQUIRE(interface);
  CHECK(interface->transport == "tcp");
  CHECK(interface->address == "127.0.0.1");
  CHECK_FALSE(parse_interface("127.0.0.1"));
  CHECK_FALSE(parse_interface("://127.0.0.1"));
  CHECK_FALSE(parse_interface("tcp://"));
  CHECK(parse_interface("udp://x").error() == "transport 'udp' is not supported; use tcp or ipc");
}

TEST_CASE("port 0 asks for a free port, and ipc numbers its sockets") {
  CHECK(url({"tcp", "127.0.0.1"}, 5555) == "tcp://127.0.0.1:5555");
  CHECK(url({"tcp", "*"}, 0) == "tcp://*:*");
  CHECK(url({"ipc", "/run/x"}, 3) == "ipc:///run/x-3");
}

TEST_CASE("a wildcard means loopback on the controller's machine and its location elsewhere") {
  const HostNames self{"node1", {"10.0.0.1", "127.0.0.1"}};
  CHECK(connectable_address("10.1.1.1", "node2", self) == "10.1.1.1");
  CHECK(connectable_address("*", "node1", self) == "127.0.0.1");
  CHECK(connectable_address("0.0.0.0", "10.0.0.1", self) == "127.0.0.1");
  CHECK(connectable_address("0.0.0.0", "", self) == "127.0.0.1");
  CHECK(connectable_address("*", "node2", self) == "node2");
}

TEST_CASE("a pool of ports is a list of ranges") {
  CHECK(*parse_ports("10-12") == std::vector<int>{10, 11, 12});
  CHECK(*parse_ports("5,10-11, 7") == std::vector<int>{5, 10, 11, 7});
  for (const char* wrong : {"", "a", "5-", "7-5", "0", "65536", "1,,2"})
    CHECK_FALSE(parse_ports(wrong));
}

TEST_CASE("a pool hands each port out once") {
  PortPool pool({7, 9});
  CHECK(pool.next() == 7);
  CHECK(pool.next() == 9);
  CHECK_FALSE(pool.next());
}
