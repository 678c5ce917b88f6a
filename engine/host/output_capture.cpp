#include "engine/host/output_capture.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

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

}  // namespace ddipp::engine
