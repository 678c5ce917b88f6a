#include "engine/supervisor/warden.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <system_error>
#include <unistd.h>

namespace ddipp::engine {
namespace {

[[noreturn]] void guard(int lifeline) {
  ::prctl(PR_SET_NAME, "ddipp-warden");
  ::setpgid(0, 0);
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, nullptr);
  // Nobody is to wait for the end of a file that only the warden holds open.
  ::dup2(lifeline, 0);
  ::close_range(1, ~0U, 0);
  pid_t group = 0;
  while (true) {
    pid_t told = 0;
    const ssize_t got = ::read(0, &told, sizeof told);
    if (got < 0 && errno == EINTR) continue;
    if (got != static_cast<ssize_t>(sizeof told)) break;
    group = told;
  }
  if (group > 0) ::kill(-group, SIGKILL);
  ::_exit(0);
}

}  // namespace

void Warden::start() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    throw std::system_error(errno, std::generic_category(), "socketpair");
  }
  const pid_t child = ::fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (child == 0) {
    ::close(ends[1]);
    guard(ends[0]);
  }
  ::close(ends[0]);
  lifeline_.reset(ends[1]);
  pid_ = child;
  watch(group_);
}

void Warden::watch(pid_t group) {
  group_ = group;
  // It is gone only when somebody killed it; the supervisor starts another then.
  ::send(lifeline_.get(), &group, sizeof group, MSG_NOSIGNAL);
}

}  // namespace ddipp::engine
