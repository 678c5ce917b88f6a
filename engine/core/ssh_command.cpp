#include "engine/core/ssh_command.hpp"

#include <algorithm>

namespace ddipp::engine {

using protocol::Json;

namespace {

constexpr const char* kPorts[] = {"registration", "control", "mux",    "task",
                                  "iopub",        "hb_ping", "hb_pong"};

int local_port(const std::vector<Forward>& forwards, int remote) {
  const auto found = std::find_if(forwards.begin(), forwards.end(), [remote](const auto& forward) {
    return forward.remote_port == remote;
  });
  return found == forwards.end() ? remote : found->local_port;
}

// As the ssh server sees the controller.
std::string remote_host(const Json& connection) {
  const std::string interface = connection.value("interface", "tcp://127.0.0.1");
  const auto start = interface.find("://");
  const std::string address = start == std::string::npos ? interface : interface.substr(start + 3);
  const bool any = address == "*" || address == "0.0.0.0";
  if (!any) return address;
  const std::string location = connection.value("location", "");
  return location.empty() ? "127.0.0.1" : location;
}

}  // namespace

Result<std::vector<int>> ports_of(const Json& connection) {
  if (!connection.value("interface", "tcp://").starts_with("tcp://")) {
    return Failure{std::string("only a controller that listens on tcp can be reached by ssh")};
  }
  std::vector<int> ports;
  for (const char* name : kPorts) {
    if (!connection.contains(name) || !connection[name].is_number_integer()) {
      return Failure{"the connection has no port '" + std::string(name) + "'"};
    }
    ports.push_back(connection[name].get<int>());
  }
  for (const auto& port : connection.value("broadcast", Json::array())) {
    if (port.is_number_integer()) ports.push_back(port.get<int>());
  }
  return ports;
}

Json through(const Json& connection, const std::vector<Forward>& forwards) {
  Json local = connection;
  local["interface"] = "tcp://127.0.0.1";
  for (const char* name : kPorts) local[name] = local_port(forwards, connection[name].get<int>());
  if (local.contains("broadcast")) {
    for (auto& port : local["broadcast"]) port = local_port(forwards, port.get<int>());
  }
  return local;
}

std::vector<std::string> ssh_arguments(const std::string& server, const std::string& key,
                                       const Json& connection,
                                       const std::vector<Forward>& forwards) {
  std::vector<std::string> arguments{"ssh",
                                     "-N",
                                     "-T",
                                     "-o",
                                     "BatchMode=yes",
                                     "-o",
                                     "ExitOnForwardFailure=yes",
                                     "-o",
                                     "ServerAliveInterval=10"};
  if (!key.empty()) arguments.insert(arguments.end(), {"-i", key});
  std::string host = server;
  const auto colon = server.rfind(':');
  if (colon != std::string::npos) {
    host = server.substr(0, colon);
    arguments.insert(arguments.end(), {"-p", server.substr(colon + 1)});
  }
  const std::string target = remote_host(connection);
  for (const auto& forward : forwards) {
    arguments.insert(arguments.end(),
                     {"-L", "127.0.0.1:" + std::to_string(forward.local_port) + ":" + target + ":" +
                                std::to_string(forward.remote_port)});
  }
  arguments.insert(arguments.end(), {"--", host});
  return arguments;
}

}  // namespace ddipp::engine
