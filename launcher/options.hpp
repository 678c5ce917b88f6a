// What dipcluster was asked for.
#pragma once

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

}  // namespace ddipp::launcher
