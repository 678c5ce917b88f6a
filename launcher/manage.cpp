#include "launcher/manage.hpp"

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/profile.hpp"
#include "launcher/cluster_file.hpp"
#include "launcher/cluster_state.hpp"
#include "launcher/hub_client.hpp"

namespace ddipp::launcher {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using protocol::Json;

std::string shown_name(const std::string& cluster_id) {
  return cluster_id.empty() ? "(default)" : cluster_id;
}

// What runs under this number; "" for nothing. Numbers are used again, by other programs.
std::string program_of(pid_t pid) {
  if (pid <= 0) return {};
  std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline");
  std::string words;
  std::getline(file, words);
  std::ranges::replace(words, '\0', ' ');
  return words;
}

bool runs(const LaunchedProcess& process, const ClusterFile& file) {
  const std::string words = program_of(process.pid);
  // Ours and stock programs are told the profile, or run below mpiexec, ssh or srun.
  return !words.empty() && (words.find("engine") != std::string::npos ||
                            words.find("controller") != std::string::npos ||
                            words.find(file.profile_dir.string()) != std::string::npos);
}

bool runs(const ClusterFile& file) {
  return runs(file.controller, file) ||
         std::ranges::any_of(file.engines, [&](const auto& one) { return runs(one, file); });
}

std::vector<ClusterFile> running_clusters(const Options& options) {
  auto files = cluster_files(options.profile_dir);
  std::erase_if(files, [](const ClusterFile& file) { return !runs(file); });
  return files;
}

template <class Condition>
bool wait_for(Condition condition, std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(20ms);
  }
  return true;
}

// A cluster that ipp.Cluster has started has no launcher of ours.
int stop_processes(const ClusterFile& file) {
  for (const auto& engine : file.engines) {
    if (runs(engine, file)) ::kill(engine.pid, SIGTERM);
  }
  if (runs(file.controller, file)) ::kill(file.controller.pid, SIGTERM);
  if (!wait_for([&] { return !runs(file); }, 10s)) return complain("its processes do not end");
  std::error_code ignored;
  fs::remove(cluster_file_path(file.profile_dir, file.cluster_id), ignored);
  return 0;
}

void remove_stale(const Options& options, const std::string& cluster_id) {
  std::error_code ignored;
  fs::remove(cluster_file_path(options.profile_dir, cluster_id), ignored);
  for (const char* kind : {"client", "engine"}) {
    fs::remove(connection_file_path(options.profile_dir, cluster_id, kind), ignored);
  }
}

int signal_number(const std::string& name) {
  if (!name.empty() && std::ranges::all_of(name, [](unsigned char c) { return std::isdigit(c); })) {
    return name.size() > 3 ? -1 : std::stoi(name);
  }
  const std::string short_name = name.starts_with("SIG") ? name.substr(3) : name;
  for (int signal = 1; signal < NSIG; ++signal) {
    const char* known = ::sigabbrev_np(signal);
    if (known != nullptr && short_name == known) return signal;
  }
  return -1;
}

}  // namespace

int complain(const std::string& line) {
  std::fprintf(stderr, "dipcluster: %s\n", line.c_str());
  return 1;
}

int stop_cluster(const Options& options) {
  const fs::path file = state_file(options.profile_dir, options.cluster_id);
  if (const auto state = read_living(file)) {
    ::kill(state->launcher, SIGTERM);
    if (!wait_for([&] { return !read_living(file); }, 15s)) {
      return complain("the launcher, process " + std::to_string(state->launcher) +
                      ", does not end");
    }
    std::printf("dipcluster: stopped\n");
    return 0;
  }
  for (const auto& cluster : running_clusters(options)) {
    if (cluster.cluster_id != options.cluster_id) continue;
    if (const int code = stop_processes(cluster); code != 0) return code;
    std::printf("dipcluster: stopped\n");
    return 0;
  }
  return complain("no such cluster runs in " + options.profile_dir.string());
}

int list_clusters(const Options& options, bool as_json) {
  Json found = Json::array();
  for (const auto& cluster : running_clusters(options)) {
    const auto state = read_living(state_file(options.profile_dir, cluster.cluster_id));
    found.push_back({{"cluster_id", cluster.cluster_id},
                     {"profile_dir", cluster.profile_dir.string()},
                     {"engines", cluster.engine_count},
                     {"launched_by", cluster.engine_class},
                     {"controller_pid", cluster.controller.pid},
                     {"launcher_pid", state ? Json(state->launcher) : Json()}});
  }
  if (as_json) {
    std::printf("%s\n", found.dump(1).c_str());
    return 0;
  }
  std::printf("%-20s %8s  %-12s %s\n", "CLUSTER", "ENGINES", "LAUNCHED BY", "CONTROLLER");
  for (const auto& one : found) {
    std::printf("%-20s %8u  %-12s %d\n", shown_name(one["cluster_id"].get<std::string>()).c_str(),
                one["engines"].get<unsigned>(), one["launched_by"].get<std::string>().c_str(),
                one["controller_pid"].get<int>());
  }
  return 0;
}

int show_status(const Options& options, bool as_json) {
  auto hub =
      HubClient::connect(connection_file_path(options.profile_dir, options.cluster_id, "client"));
  if (!hub) return complain(hub.error());
  const auto engines = (*hub)->engines(3s);
  const auto queues = (*hub)->queues(3s);
  if (!engines || !queues) return complain("the controller does not answer");
  Json rows = Json::array();
  for (const auto& [id, uuid] : *engines) {
    const Json counts = queues->value(std::to_string(id), Json::object());
    rows.push_back({{"id", id},
                    {"uuid", uuid},
                    {"queue", counts.value("queue", 0)},
                    {"tasks", counts.value("tasks", 0)},
                    {"completed", counts.value("completed", 0)}});
  }
  const Json status{{"cluster_id", options.cluster_id},
                    {"profile_dir", options.profile_dir.string()},
                    {"unassigned", queues->value("unassigned", 0)},
                    {"engines", rows}};
  if (as_json) {
    std::printf("%s\n", status.dump(1).c_str());
    return 0;
  }
  std::printf("cluster %s: %zu %s, %d tasks wait for an engine\n",
              shown_name(options.cluster_id).c_str(), rows.size(),
              rows.size() == 1 ? "engine" : "engines", status["unassigned"].get<int>());
  std::printf("%6s %8s %8s %10s  %s\n", "ENGINE", "QUEUED", "TASKS", "COMPLETED", "UUID");
  for (const auto& row : rows) {
    std::printf("%6d %8d %8d %10d  %s\n", row["id"].get<int>(), row["queue"].get<int>(),
                row["tasks"].get<int>(), row["completed"].get<int>(),
                row["uuid"].get<std::string>().c_str());
  }
  return 0;
}

int signal_engines(const Options& options, const std::string& name,
                   const std::vector<int>& wanted) {
  const int signal = signal_number(name);
  if (signal <= 0 || signal >= NSIG) return complain("there is no signal '" + name + "'");
  auto hub =
      HubClient::connect(connection_file_path(options.profile_dir, options.cluster_id, "client"));
  if (!hub) return complain(hub.error());
  const auto engines = (*hub)->engines(3s);
  if (!engines) return complain("the controller does not answer");
  std::vector<int> targets = wanted;
  if (targets.empty()) {
    for (const auto& [id, uuid] : *engines) targets.push_back(id);
  }
  for (const int id : targets) {
    if (!engines->contains(id)) return complain("there is no engine " + std::to_string(id));
  }
  int failed = 0;
  for (const int id : targets) {
    // An engine that a signal kills can't answer.
    const bool taken = (*hub)->signal(engines->at(id), signal, 2s);
    if (!taken && signal != SIGKILL && signal != SIGTERM) {
      failed = complain("engine " + std::to_string(id) + " does not answer");
    }
  }
  return failed;
}

int clean(const Options& options) {
  unsigned removed = 0;
  for (const auto& cluster : cluster_files(options.profile_dir)) {
    if (runs(cluster)) continue;
    remove_stale(options, cluster.cluster_id);
    ++removed;
  }
  living_clusters(options.profile_dir);  // removes the notes of launchers that are gone
  std::printf("dipcluster: removed what was left of %u %s\n", removed,
              removed == 1 ? "cluster" : "clusters");
  return 0;
}

}  // namespace ddipp::launcher
