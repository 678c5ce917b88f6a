#include "unbound_buffer.hpp"

#include <stdexcept>

namespace gloo::transport::tcp {

UnboundBuffer::UnboundBuffer() = default;

UnboundBuffer::~UnboundBuffer() = default;

bool UnboundBuffer::waitRecv(int* rank, std::chrono::milliseconds timeout) {
  return wait(abort_receive_, rank, timeout);
}

bool UnboundBuffer::waitSend(int* rank, std::chrono::milliseconds timeout) {
  return wait(abort_send_, rank, timeout);
}

void UnboundBuffer::abortWaitRecv() { abort(abort_receive_); }

void UnboundBuffer::abortWaitSend() { abort(abort_send_); }

void UnboundBuffer::complete() {
  const std::lock_guard lock(mutex_);
  ++completions_;
  changed_.notify_all();
}

bool UnboundBuffer::wait(bool& aborted, int* rank, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, timeout, [&] { return aborted || completions_ > 0; })) {
    throw std::runtime_error("timed out");
  }
  if (aborted) {
    aborted = false;
    return false;
  }
  --completions_;
  *rank = 7;
  return true;
}

void UnboundBuffer::abort(bool& aborted) {
  const std::lock_guard lock(mutex_);
  aborted = true;
  changed_.notify_all();
}

}  // namespace gloo::transport::tcp
