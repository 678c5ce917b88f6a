// A tiny process that outlives the supervisor by a moment: when the supervisor dies, even by
// SIGKILL, it kills the worker's process group, DataLoader workers included.
#pragma once

#include <sys/types.h>

#include "protocol/net/unique_fd.hpp"

namespace ddipp::engine {

class Warden {
 public:
  // Forks; call while the process has one thread. Throws std::system_error.
  void start();

  pid_t pid() const { return pid_; }

  // The group to kill; 0 for none.
  void watch(pid_t group);

 private:
  pid_t pid_ = -1;
  pid_t group_ = 0;
  net::UniqueFd lifeline_;  // closed by the kernel when the supervisor ends
};

}  // namespace ddipp::engine
