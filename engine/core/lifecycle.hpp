// When an engine may answer heartbeats, and when it has to give up. Pure: time comes in as an
// argument.
//
//   registering --reply--> connecting --iopub subscribed and Python ready--> answering pings
//   answering --first ping--> registered
//
// Holding back the first pong until then means that a client which sees the engine can use it.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace ddipp::engine {

using TimePoint = std::chrono::steady_clock::time_point;

struct LifecycleOptions {
  std::chrono::milliseconds registration_timeout{30'000};
  std::chrono::milliseconds iopub_timeout{1'000};         // go on without a subscription after this
  std::chrono::milliseconds controller_patience{30'000};  // disconnected for so long: give up
  int max_heartbeat_misses = 50;                          // 0 switches the check off
};

class Lifecycle {
 public:
  Lifecycle(LifecycleOptions options, TimePoint now)
      : options_(options), registration_deadline_(now + options.registration_timeout) {}

  void on_registered(std::chrono::milliseconds heartbeat_period, TimePoint now);
  void on_iopub_subscribed() { iopub_ready_ = true; }
  void on_python_ready() { python_ready_ = true; }
  void on_connected() { disconnected_since_.reset(); }
  void on_disconnected(TimePoint now);

  // True when the ping is to be answered.
  bool on_ping(TimePoint now);

  // Whether the first answered ping has completed the registration; true once.
  bool take_completed();

  std::optional<TimePoint> next_deadline() const;

  // One line when the engine has to exit now.
  std::optional<std::string> tick(TimePoint now);

 private:
  bool may_answer(TimePoint now) const;
  std::chrono::milliseconds check_period() const;

  LifecycleOptions options_;
  TimePoint registration_deadline_;
  std::optional<TimePoint> registered_at_;
  std::chrono::milliseconds heartbeat_period_{0};
  bool iopub_ready_ = false;
  bool python_ready_ = false;
  bool answered_ = false;
  bool completed_taken_ = false;
  TimePoint last_ping_;
  std::optional<TimePoint> disconnected_since_;
};

}  // namespace ddipp::engine
