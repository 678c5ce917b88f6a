// Command line of dipengine: the names and habits of ipengine.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/worker_end.hpp"

namespace ddipp::engine {

struct Options {
  std::string python;  // interpreter to host, "" to find it
  std::filesystem::path profile_dir;
  std::filesystem::path connection_file;
  std::string location;  // overrides that of the connection file
  std::optional<int> id;
  std::string startup_command;
  std::string startup_script;
  double registration_timeout_s = 30;
  double wait_for_file_s = 10;
  double controller_patience_s = 30;
  int max_heartbeat_misses = 50;
  RestartWhen restart = RestartWhen::never;
  int output_limit_mib = 16;         // of one request and stream
  std::filesystem::path nursery;     // socket of the process that forks workers, "" for none
  std::vector<std::string> preload;  // modules that it is to import before
  bool use_mpi = false;
  bool log_to_file = false;
  std::string work_dir;    // "" to stay
  std::string ssh_server;  // "" for the connection file's
  std::string ssh_key;
  std::string log_level = "info";
  std::vector<std::string> python_arguments;  // --Class.trait=value for IPython
};

struct ParsedOptions {
  Options options;
  std::optional<int> exit_code;  // set by --help, --version and bad usage, which have printed
};

ParsedOptions parse_options(int argc, char** argv);

}  // namespace ddipp::engine
