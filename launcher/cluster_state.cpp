#include "launcher/cluster_state.hpp"

#include <fstream>
#include <sstream>
#include <system_error>
#include <unistd.h>

#include "protocol/connection_file.hpp"

namespace ddipp::launcher {
namespace {

namespace fs = std::filesystem;
using protocol::Json;

// Field 22 of /proc/<pid>/stat: start time in clock ticks since boot. "" for no such process.
std::string start_time(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return {};
  std::istringstream fields(line.substr(line.rfind(')') + 1));  // the name may hold spaces
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  return field;
}

}  // namespace

fs::path state_file(const fs::path& profile_dir, const std::string& cluster_id) {
  return profile_dir / "pid" / ("dipcluster-" + cluster_id + ".json");
}

ClusterState own_state(const std::string& cluster_id) {
  return {cluster_id, ::getpid(), start_time(::getpid()), {}};
}

Result<std::monostate> write_state(const fs::path& path, const ClusterState& state) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) return Failure{"can't create " + path.parent_path().string() + ": " + error.message()};
  return protocol::write_json_file(path, Json{{"cluster_id", state.cluster_id},
                                              {"launcher", state.launcher},
                                              {"started", state.started},
                                              {"command_line", state.command_line}});
}

std::optional<ClusterState> read_living(const fs::path& path) {
  if (!fs::exists(path)) return std::nullopt;
  const auto json = protocol::read_json_file(path);
  ClusterState state;
  if (json && json->is_object()) {
    state.cluster_id = protocol::text_in(*json, "cluster_id");
    const auto launcher = json->find("launcher");
    if (launcher != json->end()) state.launcher = protocol::integer_in(*launcher).value_or(0);
    state.started = protocol::text_in(*json, "started");
    const auto words = json->find("command_line");
    if (words != json->end() && words->is_array()) {
      for (const Json& word : *words) {
        if (word.is_string()) state.command_line.push_back(word.get<std::string>());
      }
    }
  }
  if (state.launcher > 0 && !state.started.empty() && start_time(state.launcher) == state.started) {
    return state;
  }
  std::error_code ignored;
  fs::remove(path, ignored);
  return std::nullopt;
}

std::vector<ClusterState> living_clusters(const fs::path& profile_dir) {
  std::vector<ClusterState> clusters;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(profile_dir / "pid", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("dipcluster-") || !name.ends_with(".json")) continue;
    if (const auto state = read_living(entry.path())) clusters.push_back(*state);
  }
  return clusters;
}

}  // namespace ddipp::launcher
