#include "engine/host/children.hpp"

#include <csignal>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <unistd.h>

namespace ddipp::engine {
namespace {

void signal_children_of(const std::filesystem::path& process, pid_t group, int number) {
  std::error_code none;
  // A process is a child of the thread that has started it.
  for (const auto& thread : std::filesystem::directory_iterator(process / "task", none)) {
    std::ifstream children(thread.path() / "children");
    for (pid_t child = 0; children >> child;) {
      if (::getpgid(child) != group) continue;
      ::kill(child, number);
      signal_children_of("/proc/" + std::to_string(child), group, number);
    }
  }
}

}  // namespace

void signal_children(int number) { signal_children_of("/proc/self", ::getpgrp(), number); }

}  // namespace ddipp::engine
