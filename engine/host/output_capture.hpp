// Puts pipes behind file descriptors 1 and 2, so that what C and C++ code and child processes write
// reaches the notebook too.
#pragma once

#include <chrono>
#include <mutex>
#include <string>

#include "protocol/net/unique_fd.hpp"

namespace ddipp::engine {

class OutputCapture {
 public:
  // The pipes come from the supervisor, which reads what a dead worker has left in them. Keeps the
  // original stderr for logs.
  OutputCapture(net::UniqueFd stdout_read, net::UniqueFd stdout_write, net::UniqueFd stderr_read,
                net::UniqueFd stderr_write);

  int original_stderr() const { return original_stderr_.get(); }
  int stdout_fd() const { return stdout_.get(); }  // read ends, non-blocking
  int stderr_fd() const { return stderr_.get(); }

  // Moves 1 and 2 to the pipes.
  void start();

  // What is in the pipe now, at most 256 KiB. For the io thread.
  static std::string drain(int fd);

  // The request that captured text belongs to. Text has no mark of its own, so the Python thread
  // sets this at the start of a request and waits for empty pipes at its end.
  void set_parent_header(std::string packed);
  std::string parent_header() const;
  void wait_until_drained(std::chrono::milliseconds patience) const;

 private:
  mutable std::mutex mutex_;
  std::string parent_header_;
  net::UniqueFd original_stderr_;
  net::UniqueFd stdout_, stdout_write_;
  net::UniqueFd stderr_, stderr_write_;
};

}  // namespace ddipp::engine
