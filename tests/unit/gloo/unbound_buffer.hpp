// What the test needs of Gloo's buffer: the names and the order of its virtual functions, and how
// they behave. It is built as a library of the name that torch gives it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>

namespace gloo::transport::tcp {

class UnboundBuffer {
 public:
  UnboundBuffer();  // in the library, so that the table there is the only one
  virtual ~UnboundBuffer();
  // Both: whether it was complete, not aborted; an exception after the timeout.
  virtual bool waitRecv(int* rank, std::chrono::milliseconds timeout);
  virtual bool waitSend(int* rank, std::chrono::milliseconds timeout);
  virtual void abortWaitRecv();
  virtual void abortWaitSend();

  void complete();

 private:
  bool wait(bool& aborted, int* rank, std::chrono::milliseconds timeout);
  void abort(bool& aborted);

  std::mutex mutex_;
  std::condition_variable changed_;
  int completions_ = 0;
  bool abort_receive_ = false, abort_send_ = false;
};

}  // namespace gloo::transport::tcp
