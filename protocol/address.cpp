#include "protocol/address.hpp"

#include <algorithm>
#include <charconv>

namespace ddipp::protocol {
namespace {

std::string in_quotes(std::string_view text) { return std::string("'").append(text).append("'"); }

std::optional<int> parse_port(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  int port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (port < 1 || port > 65535) return std::nullopt;
  return port;
}

}  // namespace

Result<Interface> parse_interface(std::string_view text) {
  const auto separator = text.find("://");
  if (separator == std::string_view::npos || separator == 0 || separator + 3 >= text.size()) {
    return Failure{in_quotes(text) + " is not an interface of the form tcp://address"};
  }
  Interface interface {
    std::string(text.substr(0, separator)), std::string(text.substr(separator + 3))
  };
  if (interface.transport != "tcp" && interface.transport != "ipc") {
    return Failure{"transport " + in_quotes(interface.transport) +
                   " is not supported; use tcp or ipc"};
  }
  return interface;
}

std::string url(const Interface& interface, int port) {
  const std::string base = interface.transport + "://" + interface.address;
  if (interface.transport == "ipc") return base + "-" + std::to_string(port);
  return base + ":" + (port == 0 ? std::string("*") : std::to_string(port));
}

std::string connectable_address(const std::string& listen, const std::string& location,
                                const HostNames& self) {
  if (listen != "0.0.0.0" && listen != "*") return listen;
  const auto& own = self.addresses;
  const bool here = location.empty() || location == self.host_name ||
                    std::find(own.begin(), own.end(), location) != own.end();
  return here ? "127.0.0.1" : location;
}

Result<std::vector<int>> parse_ports(std::string_view text) {
  std::vector<int> ports;
  const Failure complaint{in_quotes(text) +
                          " is not a list of ports; write them as 10101-10120 or 10101,10105"};
  while (true) {
    const auto comma = text.find(',');
    const auto item = text.substr(0, comma);
    const auto dash = item.find('-');
    const auto first = parse_port(item.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : parse_port(item.substr(dash + 1));
    if (!first || !last || *last < *first) return complaint;
    for (int port = *first; port <= *last; ++port) ports.push_back(port);
    if (comma == std::string_view::npos) return ports;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace ddipp::protocol
