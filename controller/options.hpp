// Command line of dipcontroller: the names and habits of ipcontroller.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "protocol/packing.hpp"

namespace ddipp::controller {

struct Options {
  std::filesystem::path profile_dir;
  std::string cluster_id;
  std::string client_interface = "tcp://127.0.0.1";
  std::string engine_interface = "tcp://127.0.0.1";
  std::string location;  // default: the host name
  std::string ports, client_ports, engine_ports;
  std::string client_ssh, engine_ssh;
  std::string pack = "json";
  std::chrono::milliseconds ping_period{3000};
  int max_heartbeat_misses = 10;
  int hwm = 1;                       // tasks at a time on an engine, 0 for no limit
  std::string scheme = "leastload";  // of the task scheduler
  std::string store = "none";        // wished result store: none, dict or sqlite
  std::string log_level = "info";

  // "client" or "engine"
  std::filesystem::path connection_file(const std::string& kind) const;
};

struct ParsedOptions {
  Options options;
  std::optional<int> exit_code;  // set by --help, --version and bad usage, which have printed
};

ParsedOptions parse_options(int argc, char** argv);

}  // namespace ddipp::controller
