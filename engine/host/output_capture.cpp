#include "engine/host/output_capture.hpp"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

namespace ddipp::engine {
namespace {

void make_pipe(net::UniqueFd& read_end, net::UniqueFd& write_end) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw std::system_error(errno, std::generic_category(), "pipe");
  }
  read_end.reset(ends[0]);
  write_end.reset(ends[1]);
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
}

bool is_empty(int fd) {
  int waiting = 0;
  return ::ioctl(fd, FIONREAD, &waiting) != 0 || waiting == 0;
}

}  // namespace

OutputCapture::OutputCapture() : original_stderr_(::fcntl(2, F_DUPFD_CLOEXEC, 3)) {
  make_pipe(stdout_, stdout_write_);
  make_pipe(stderr_, stderr_write_);
}

void OutputCapture::start() {
  ::dup2(stdout_write_.get(), 1);
  ::dup2(stderr_write_.get(), 2);
  stdout_write_.reset();
  stderr_write_.reset();
}

std::string OutputCapture::drain(int fd) {
  constexpr std::size_t limit = 256 * 1024;
  std::string text;
  std::array<char, 16 * 1024> buffer{};
  while (text.size() < limit) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

void OutputCapture::set_parent_header(std::string packed) {
  const std::lock_guard lock(mutex_);
  parent_header_ = std::move(packed);
}

std::string OutputCapture::parent_header() const {
  const std::lock_guard lock(mutex_);
  return parent_header_;
}

void OutputCapture::wait_until_drained(std::chrono::milliseconds patience) const {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!(is_empty(stdout_.get()) && is_empty(stderr_.get()))) {
    if (std::chrono::steady_clock::now() > deadline) return;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

}  // namespace ddipp::engine
