// ZeroMQ addresses and port pools.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/result.hpp"

namespace ddipp::protocol {

struct Interface {
  std::string transport;  // "tcp" or "ipc"
  std::string address;    // "127.0.0.1", "*", or the path prefix of ipc sockets
};

// "tcp://127.0.0.1" -> {"tcp", "127.0.0.1"}
Result<Interface> parse_interface(std::string_view text);

// Port 0 asks for a free one. An ipc address gets "-<port>" appended, as ipyparallel names them.
std::string url(const Interface& interface, int port);

// What this machine is called; filled in by the caller.
struct HostNames {
  std::string host_name;
  std::vector<std::string> addresses;
};

// The address to connect to when a controller listens on `listen` and gives `location` as its host:
// a wildcard becomes loopback on the controller's own machine and `location` elsewhere.
std::string connectable_address(const std::string& listen, const std::string& location,
                                const HostNames& self);

// "10101-10120", "10101,10105" or a mix.
Result<std::vector<int>> parse_ports(std::string_view text);

// Hands out the ports of a pool, then of a common pool, then 0 (any free port).
class PortPool {
 public:
  PortPool() = default;
  explicit PortPool(std::vector<int> ports) : ports_(std::move(ports)) {}
  std::optional<int> next() {
    if (used_ >= ports_.size()) return std::nullopt;
    return ports_[used_++];
  }

 private:
  std::vector<int> ports_;
  std::size_t used_ = 0;
};

}  // namespace ddipp::protocol
