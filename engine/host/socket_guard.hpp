// The connections of the current process group, so that a rank that waits in a collective can be
// freed from outside Python: with its sockets shut down the collective fails at once.
//
// Gloo has no abort of its own; libtorch's abort() does nothing for it.
#pragma once

#include <sys/socket.h>

#include <mutex>
#include <utility>
#include <vector>

namespace ddipp::engine {

// Any thread.
class SocketGuard {
 public:
  // The descriptors stay open until the next call for another generation.
  void watch(int generation, std::vector<int> fds) {
    const std::lock_guard lock(mutex_);
    generation_ = generation;
    fds_ = std::move(fds);
  }

  // Shuts the connections down and returns how many. A request for another generation is late and
  // does nothing.
  std::size_t cut(int generation) {
    const std::lock_guard lock(mutex_);
    if (generation != generation_) return 0;
    for (const int fd : fds_) ::shutdown(fd, SHUT_RDWR);
    return fds_.size();
  }

 private:
  std::mutex mutex_;
  int generation_ = -1;
  std::vector<int> fds_;
};

}  // namespace ddipp::engine
