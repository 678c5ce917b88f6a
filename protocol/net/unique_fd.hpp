// Owns a file descriptor.
#pragma once

#include <utility>

namespace ddipp::net {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd() { reset(); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// A close-on-exec eventfd; throws std::system_error.
UniqueFd make_eventfd();
void raise_event(int fd) noexcept;  // async-signal-safe
void clear_event(int fd) noexcept;

}  // namespace ddipp::net
