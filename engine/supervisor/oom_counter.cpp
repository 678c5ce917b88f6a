#include "engine/supervisor/oom_counter.hpp"

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

namespace ddipp::engine {
namespace {

std::optional<long> entry(const std::filesystem::path& path, const std::string& name) {
  std::ifstream file(path);
  std::string key;
  for (long value = 0; file >> key >> value;) {
    if (key == name) return value;
  }
  return std::nullopt;
}

// "0::/user.slice/..." in the unified hierarchy.
std::filesystem::path own_group() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("0::/")) return "/sys/fs/cgroup/" + line.substr(4);
  }
  return {};
}

}  // namespace

long oom_kills() {
  if (const auto group = own_group(); !group.empty()) {
    if (const auto count = entry(group / "memory.events", "oom_kill")) return *count;
  }
  return entry("/proc/vmstat", "oom_kill").value_or(0);
}

}  // namespace ddipp::engine
