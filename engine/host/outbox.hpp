// Messages on their way from Python threads to the io thread, in one order for all channels.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "engine/host/request.hpp"
#include "protocol/net/unique_fd.hpp"

namespace ddipp::engine {

// Any thread.
class Outbox {
 public:
  Outbox() : event_(net::make_eventfd()) {}

  int event_fd() const { return event_.get(); }

  void push(Outgoing outgoing);

  // Waits while more than kLimit bytes of stream text are queued, so that endless output is slowed
  // down to what the io thread can send. Call without the GIL.
  void wait_for_room();

  // Everything queued; clears the event.
  std::deque<Outgoing> take_all();

  // After this nothing waits or is accepted any more.
  void close();

 private:
  static constexpr std::size_t kLimit = 16 * 1024 * 1024;

  net::UniqueFd event_;
  std::mutex mutex_;
  std::condition_variable room_;
  std::deque<Outgoing> queue_;
  std::size_t stream_bytes_ = 0;
  bool closed_ = false;
};

}  // namespace ddipp::engine
