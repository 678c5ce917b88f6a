// What dipcluster was asked for.
#pragma once

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launcher/engine_plan.hpp"

namespace ddipp::launcher {

struct Options {
  std::filesystem::path profile_dir;
  std::string cluster_id;
  Way way = Way::local;
  std::optional<unsigned> engines;
  std::vector<Host> hosts;
  std::string remote_program;
  std::vector<std::string> way_args;
  std::vector<std::string> controller_args;
  std::vector<std::string> engine_args;
  bool daemonize = false;
  double timeout_s = 60;
  std::vector<std::string> command_line;  // to start it again
};

// Whether the controller listens where an earlier one did, by the files that it has left.
inline bool keeps_connection_files(const Options& options) {
  return std::ranges::any_of(options.controller_args, [](const std::string& argument) {
    return argument.starts_with("--reuse") || argument.starts_with("--restore");
  });
}

}  // namespace ddipp::launcher
