#include "engine/host/stack_sampler.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <stdexcept>
#include <unistd.h>

namespace ddipp::engine {
namespace {

std::atomic<void (*)(int)> faulthandler{nullptr};
std::atomic<int> end_mark_fd{-1};

void on_signal(int number) {
  const int saved = errno;
  if (const auto handler = faulthandler.load()) handler(number);
  [[maybe_unused]] const auto written = ::write(end_mark_fd, "", 1);
  errno = saved;
}

}  // namespace

StackSampler::StackSampler(pthread_t python_thread) : python_thread_(python_thread) {
  std::array<int, 2> ends{};
  // The writer must never wait: it is the user's thread.
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) throw std::runtime_error("pipe failed");
  read_end_.reset(ends[0]);
  write_end_.reset(ends[1]);
}

// Far from those that the C library and debuggers take.
int StackSampler::signal_number() { return SIGRTMAX - 5; }

void StackSampler::arm() {
  struct sigaction action {};
  if (::sigaction(signal_number(), nullptr, &action) != 0 || action.sa_handler == SIG_DFL ||
      action.sa_handler == SIG_IGN || action.sa_handler == on_signal) {
    return;
  }
  end_mark_fd = write_end_.get();
  faulthandler = action.sa_handler;
  action.sa_handler = on_signal;
  action.sa_flags |= SA_RESTART;
  ::sigaction(signal_number(), &action, nullptr);
}

bool StackSampler::ask() {
  if (faulthandler.load() == nullptr) return false;
  read();  // what came too late for an earlier question
  return ::pthread_kill(python_thread_, signal_number()) == 0;
}

StackSampler::Piece StackSampler::read() {
  Piece piece;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = ::read(read_end_.get(), buffer.data(), buffer.size())) > 0;) {
    piece.text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  if (const auto end = piece.text.find('\0'); end != std::string::npos) {
    piece.text.resize(end);
    piece.complete = true;
  }
  return piece;
}

}  // namespace ddipp::engine
