// Command line of dipcontroller: the names and habits of ipcontroller.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "controller/core/memory_store.hpp"
#include "protocol/packing.hpp"

namespace ddipp::controller {

struct CurveOptions {
  bool enabled = false;
  std::string public_key;  // Z85; made fresh when empty
  std::string secret_key;
};

struct SqliteOptions {
  std::filesystem::path file;  // default: tasks.db in the profile
  std::string table = "ipython-tasks";
};

struct Options {
  std::filesystem::path profile_dir;
  std::string cluster_id;
  std::string client_interface = "tcp://127.0.0.1";
  std::string engine_interface = "tcp://127.0.0.1";
  std::string location;  // default: the host name
  std::string ports, client_ports, engine_ports;
  std::string client_ssh, engine_ssh;
  std::string pack = "json";
  std::optional<std::string> key;  // "" switches signing off; default: a random one
  CurveOptions curve;
  bool reuse = false;    // the connection files of an earlier controller
  bool restore = false;  // its engines, and with SQLite its unfinished tasks
  std::chrono::milliseconds ping_period{3000};
  int max_heartbeat_misses = 10;
  std::chrono::seconds registration_timeout{0};  // 0: the longer of 30 s and ten pings
  int hwm = 1;                                   // tasks at a time on an engine, 0 for no limit
  std::string scheme = "leastload";              // of the task scheduler
  std::string store = "dict";                    // none, dict or sqlite
  MemoryStoreOptions memory;
  SqliteOptions sqlite;
  std::string log_level = "info";
  std::filesystem::path log_file;  // "" for stderr
  std::int64_t max_message = 0;    // bytes of a frame; 0: the machine's memory
  int output_queue = 100'000;      // messages that a subscriber has not read
  std::int64_t queue_limit = 0;    // bytes of unfinished requests; 0: half of the memory
  std::chrono::seconds linger{0};  // without clients and work; 0: for ever
  int metrics_port = -1;           // 0 for any, -1 for none

  // "client" or "engine"
  std::filesystem::path connection_file(const std::string& kind) const;
  // Ids and uuids of the registered engines, for --restore.
  std::filesystem::path engines_file() const;
};

struct ParsedOptions {
  Options options;
  std::optional<int> exit_code;  // set by --help, --version and bad usage, which have printed
};

ParsedOptions parse_options(int argc, char** argv);

}  // namespace ddipp::controller
