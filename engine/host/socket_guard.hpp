// The connections of the current process group, so that a rank that waits in a collective can be
// freed from outside Python: with its sockets shut down the collective fails at once.
//
// Gloo has no abort of its own: libtorch's abort() does nothing for it. NCCL has one, which the
// torch plug-in reaches.
#pragma once

#include <mutex>
#include <sys/socket.h>
#include <sys/stat.h>
#include <vector>

namespace ddipp::engine {

// Any thread.
class SocketGuard {
 public:
  void watch(int generation, const std::vector<int>& fds) {
    const std::lock_guard lock(mutex_);
    generation_ = generation;
    connections_.clear();
    for (const int fd : fds) connections_.push_back({fd, inode(fd)});
  }

  // A function that aborts the group of a generation in another way, beside the sockets: that of
  // the torch plug-in. It must return at once.
  using Abort = int (*)(int generation);
  void set_abort(Abort abort) {
    const std::lock_guard lock(mutex_);
    abort_ = abort;
  }

  // Shuts the connections down and returns how many. A request for another generation is late and
  // does nothing.
  std::size_t cut(int generation) {
    const std::lock_guard lock(mutex_);
    if (generation != generation_) return 0;
    if (abort_ != nullptr) abort_(generation);
    std::size_t count = 0;
    for (const auto& connection : connections_) {
      // Gloo closes the descriptor of a failed connection, and it may belong to another file now.
      if (inode(connection.fd) != connection.inode || is_listening(connection.fd)) continue;
      if (::shutdown(connection.fd, SHUT_RDWR) == 0) ++count;
    }
    return count;
  }

 private:
  struct Connection {
    int fd;
    ino_t inode;
  };

  static ino_t inode(int fd) {
    struct stat status {};
    return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
  }

  // Gloo ends the process when its listening socket fails.
  static bool is_listening(int fd) {
    int listening = 0;
    socklen_t size = sizeof listening;
    return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || listening != 0;
  }

  std::mutex mutex_;
  Abort abort_ = nullptr;
  int generation_ = -1;
  std::vector<Connection> connections_;
};

}  // namespace ddipp::engine
