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
    std::size_t count = 0;
    for (const int fd : fds_) {
      if (!is_listening(fd) && ::shutdown(fd, SHUT_RDWR) == 0) ++count;
    }
    return count;
  }

 private:
  // Gloo ends the process when its listening socket fails.
  static bool is_listening(int fd) {
    int listening = 0;
    socklen_t size = sizeof listening;
    return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || listening != 0;
  }

  std::mutex mutex_;
  int generation_ = -1;
  std::vector<int> fds_;
};

}  // namespace ddipp::engine
