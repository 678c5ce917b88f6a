// The file by which a later dipcluster finds a running cluster: pids of its processes, kept in the
// profile's pid folder while the cluster runs.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

#include "protocol/result.hpp"

namespace ddipp::launcher {

struct ClusterState {
  std::string cluster_id;
  pid_t launcher = 0;
  std::string
      started;  // of the launcher, from /proc: tells it from another process of the same pid
  std::vector<std::string> command_line;  // with which it was started
};

std::filesystem::path state_file(const std::filesystem::path& profile_dir,
                                 const std::string& cluster_id);

// This process as the launcher.
ClusterState own_state(const std::string& cluster_id);

// Fails with one line that names the file and the cause.
Result<std::monostate> write_state(const std::filesystem::path& path, const ClusterState& state);

// Nothing when there is no such file or the launcher it names is not running any more; a stale file
// is removed.
std::optional<ClusterState> read_living(const std::filesystem::path& path);

// All clusters of a profile that run.
std::vector<ClusterState> living_clusters(const std::filesystem::path& profile_dir);

}  // namespace ddipp::launcher
