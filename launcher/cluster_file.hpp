// The file by which ipyparallel (ipp.Cluster.from_file, "ipcluster list", JupyterLab's Clusters
// tab) finds a cluster: cluster-<id>.json in the profile's security folder. Pure but for read and
// write.
#pragma once

#include <filesystem>
#include <string>
#include <sys/types.h>
#include <vector>

#include "protocol/packing.hpp"
#include "protocol/result.hpp"

namespace ddipp::launcher {

struct LaunchedProcess {
  std::string name;  // of an engine: its number
  pid_t pid = 0;
  std::filesystem::path log;
};

struct ClusterFile {
  std::string cluster_id;
  std::filesystem::path profile_dir;
  LaunchedProcess controller;
  std::string engine_class = "ddipp";  // ipyparallel's name of the launcher
  std::vector<LaunchedProcess> engines;
  unsigned engine_count = 0;  // more than processes where one starts several
};

std::filesystem::path cluster_file_path(const std::filesystem::path& profile_dir,
                                        const std::string& cluster_id);

protocol::Json to_json(const ClusterFile& file);
// Also reads what ipyparallel has written; fails with one line.
Result<ClusterFile> parse_cluster_file(const protocol::Json& json);

// All cluster files of a profile that can be read.
std::vector<ClusterFile> cluster_files(const std::filesystem::path& profile_dir);

}  // namespace ddipp::launcher
