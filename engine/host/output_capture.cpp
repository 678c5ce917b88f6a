#include "engine/host/output_capture.hpp"

#include <array>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace ddipp::engine {
namespace {

bool is_empty(int fd) {
  int waiting = 0;
  return ::ioctl(fd, FIONREAD, &waiting) != 0 || waiting == 0;
}

}  // namespace

OutputCapture::OutputCapture(net::UniqueFd stdout_read, net::UniqueFd stdout_write,
                             net::UniqueFd stderr_read, net::UniqueFd stderr_write)
    : original_stderr_(::fcntl(2, F_DUPFD_CLOEXEC, 3)),
      stdout_(std::move(stdout_read)),
      stdout_write_(std::move(stdout_write)),
      stderr_(std::move(stderr_read)),
      stderr_write_(std::move(stderr_write)) {}

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
