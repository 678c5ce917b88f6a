// What the engine holds of the current process group, so that a rank that waits in a collective can
// be freed from outside Python, and can say what it waits for.
//
// Gloo has no abort of its own: its waits are ended one by one, and with its sockets shut down
// peers fail at once too. NCCL has one, which the torch plug-in reaches; where the plug-in can't be
// used, a thread of Python's waits for cut_event().
#pragma once

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <mutex>
#include <optional>
#include <sys/socket.h>
#include <sys/stat.h>
#include <vector>

#include "engine/ddp/report.h"
#include "engine/host/gloo_waits.hpp"
#include "protocol/net/unique_fd.hpp"

namespace ddipp::engine {

// Any thread.
class GroupGuard {
 public:
  // C functions of the torch plug-in. Both return at once.
  using Abort = int (*)(int generation);
  using Report = void (*)(DdippTorchReport*);

  GroupGuard() : cut_event_(net::make_eventfd()) {}

  // A generation begins: no socket is known yet.
  void begin(int generation) {
    const std::lock_guard lock(mutex_);
    generation_ = generation;
    was_cut_ = false;
    connections_.clear();
    gloo_waits::allow();
  }

  int generation() const {
    const std::lock_guard lock(mutex_);
    return generation_;
  }

  // Connections of the groups of this generation.
  void add_sockets(const std::vector<int>& fds) {
    const std::lock_guard lock(mutex_);
    for (const int fd : fds) connections_.push_back({fd, inode(fd)});
  }

  void set_plugin(Abort abort_function, Report report_function) {
    const std::lock_guard lock(mutex_);
    abort_ = abort_function;
    report_ = report_function;
  }

  // Aborts the groups and shuts their connections down; returns how many connections. A request for
  // another generation is late and does nothing.
  std::size_t cut(int generation) {
    const std::lock_guard lock(mutex_);
    if (generation != generation_) return 0;
    was_cut_ = true;
    if (abort_ != nullptr) abort_(generation);
    gloo_waits::abort();
    net::raise_event(cut_event_.get());
    std::size_t count = 0;
    for (const auto& connection : connections_) {
      // Gloo closes the descriptor of a failed connection, and it may belong to another file now,
      // or any moment: a copy stays what it is while it is looked at.
      const net::UniqueFd held(::fcntl(connection.fd, F_DUPFD_CLOEXEC, 0));
      if (held.get() < 0 || inode(held.get()) != connection.inode) continue;
      if (is_listening(held.get())) continue;
      if (::shutdown(held.get(), SHUT_RDWR) == 0) ++count;
    }
    return count;
  }

  // Whether this generation was cut.
  bool was_cut() const {
    const std::lock_guard lock(mutex_);
    return was_cut_;
  }

  // Whether this generation can't go on: it was cut, or a connection has ended that another rank
  // has closed.
  bool is_broken() const {
    const std::lock_guard lock(mutex_);
    return was_cut_ || std::ranges::any_of(connections_, [](const Connection& one) {
             return inode(one.fd) != one.inode || (!is_listening(one.fd) && has_ended(one.fd));
           });
  }

  // Readable after each cut of the current generation.
  int cut_event() const { return cut_event_.get(); }

  std::optional<DdippTorchReport> report() const {
    const std::lock_guard lock(mutex_);
    if (report_ == nullptr) return std::nullopt;
    DdippTorchReport filled;
    report_(&filled);
    return filled;
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

  // Nothing that is there is taken.
  static bool has_ended(int fd) {
    char byte = 0;
    const auto got = ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
  }

  mutable std::mutex mutex_;
  net::UniqueFd cut_event_;
  Abort abort_ = nullptr;
  Report report_ = nullptr;
  int generation_ = -1;
  bool was_cut_ = false;
  std::vector<Connection> connections_;
};

}  // namespace ddipp::engine
