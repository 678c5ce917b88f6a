// Requests on their way from the io thread to the Python thread, and what runs there right now.
#pragma once

#include <chrono>
#include <deque>
#include <mutex>
#include <optional>
#include <pthread.h>
#include <string>
#include <unordered_set>
#include <vector>

#include "engine/host/request.hpp"
#include "protocol/net/unique_fd.hpp"

namespace ddipp::engine {

// What became of an interrupt.
enum class Interrupted { sent, kept, idle, gone };

// Any thread. `python_thread` is the one that calls take() and set_running().
class Inbox {
 public:
  explicit Inbox(pthread_t python_thread)
      : python_thread_(python_thread), event_(net::make_eventfd()) {}

  // Readable while something may be there to take.
  int event_fd() const { return event_.get(); }
  void clear_event() { net::clear_event(event_.get()); }

  // Control requests go before shell requests.
  void push(Request request);

  // The next request, or nothing. A stop shows as stopping().
  std::optional<Request> take();

  // Takes requests out of the shell queue to abort them: those named, or all when none is named.
  // Named ones that have not come yet are taken out when they do.
  std::vector<Request> remove(const std::vector<std::string>& msg_ids);

  // Takes all requests of one type out of the shell queue.
  std::vector<Request> remove_type(const std::string& msg_type);

  // True when a request that arrives now was aborted before it came.
  bool aborted_in_advance(const std::string& msg_id);

  void stop();
  bool stopping() const;

  void set_running(bool running);
  // What the request that runs is, for reports; forgotten when it ends.
  void set_title(std::string title);
  std::string title() const;

  // How long the request that runs has run; nothing when idle.
  std::optional<std::chrono::nanoseconds> running_for() const;

  // Sends SIGINT to the Python thread if it runs a request, and not to its children: the workers of
  // a data loader would be lost for good. Held together with set_running() so that a late signal
  // never meets the next request.
  //
  // With the id of a request it is for that one: kept until it begins, though it may not have come
  // yet, and forgotten once it has ended.
  Interrupted interrupt(const std::string& msg_id = "");

  // How an interrupt calls Python, so that the moment is known at which it runs again: `call` has
  // to let the Python thread call interrupt_taken() when it does.
  void set_python_call(bool (*call)()) { python_call_ = call; }
  void interrupt_taken();

  // Since when Python has not run after an interrupt; nothing when there is none.
  std::optional<std::chrono::nanoseconds> unanswered_for() const;

 private:
  template <class Predicate>
  std::vector<Request> remove_if(Predicate matches);  // with mutex_ held
  void send_interrupt();                              // with mutex_ held

  pthread_t python_thread_;
  net::UniqueFd event_;
  mutable std::mutex mutex_;
  std::deque<Request> control_;
  std::deque<Request> shell_;
  std::unordered_set<std::string> aborted_;
  bool stopping_ = false;
  bool running_ = false;
  bool begun_ = false;                    // current_ has run, if only for a moment
  std::string current_;                   // the request that was taken last
  std::deque<std::string> ended_;         // the last ones
  std::deque<std::string> to_interrupt_;  // those that have not begun
  bool (*python_call_)() = nullptr;
  std::optional<std::chrono::steady_clock::time_point> interrupted_at_;
  std::string title_;
  std::chrono::steady_clock::time_point running_since_;
};

}  // namespace ddipp::engine
