// The Python stack of the main thread, taken without the GIL and without running Python code: the
// thread gets a signal for which Python's faulthandler has registered its handler in C. Waits of
// the C library that no signal may interrupt go on; sleep(3) and poll(2) called from C end early,
// as they do with every signal.
#pragma once

#include <pthread.h>
#include <string>

#include "protocol/net/unique_fd.hpp"

namespace ddipp::engine {

// One in a process: a signal handler has no argument.
class StackSampler {
 public:
  explicit StackSampler(pthread_t python_thread);

  // For faulthandler.register(signal_number(), file=write_fd()).
  static int signal_number();
  int write_fd() const { return write_end_.get(); }

  // To be called after that, by Python: marks the end of each stack from now on.
  void arm();

  // Any thread: asks for a stack; false before arm(). It comes through read_fd(), never if the
  // thread is stuck in the kernel.
  bool ask();

  // The io thread: what has come, up to its end.
  int read_fd() const { return read_end_.get(); }
  struct Piece {
    std::string text;
    bool complete = false;
  };
  Piece read();

 private:
  pthread_t python_thread_;
  net::UniqueFd read_end_, write_end_;
};

}  // namespace ddipp::engine
