// When an engine registers and may answer heartbeats, and when it has to give up. Pure: time comes
// in as an argument.
//
//   importing --Python's wish--> registering --reply--> connecting
//   connecting --iopub subscribed and Python ready--> answering pings --first ping--> registered
//
// Holding back the first pong until then means that a client which sees the engine can use it. A
// controller forgets who doesn't answer, and says nothing: so an engine registers when its imports
// are done, however long they took, and registers again while its startup code runs and at the end
// of that. What comes back then says that the controller knows it, now.
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
      : options_(options), started_(now), next_notice_(now + kFirstNotice) {}

  // A registration is sent.
  void on_registering(TimePoint now);
  void on_registered(std::chrono::milliseconds heartbeat_period, TimePoint now);
  // Another registration was answered, with an id or a refusal: the controller knows the engine.
  void on_known() { asked_again_.reset(); }
  void on_iopub_subscribed() { iopub_ready_ = true; }
  void on_python_ready(TimePoint now);
  void on_connected() { disconnected_since_.reset(); }
  void on_disconnected(TimePoint now);

  // True when the ping is to be answered.
  bool on_ping(TimePoint now);

  // Whether the first answered ping has completed the registration; true once.
  bool take_completed();

  // Whether to register again; true once for each time.
  bool take_renewal(TimePoint now);

  // One line, now and then, while Python takes its time.
  std::optional<std::string> take_notice(TimePoint now);

  std::optional<TimePoint> next_deadline() const;

  // One line when the engine has to exit now.
  std::optional<std::string> tick(TimePoint now);

 private:
  bool may_answer(TimePoint now) const;
  std::chrono::milliseconds check_period() const;

  static constexpr std::chrono::milliseconds kRenewal{1'000};
  static constexpr std::chrono::milliseconds kFirstNotice{5'000};

  LifecycleOptions options_;
  TimePoint started_;
  TimePoint next_notice_;
  std::optional<TimePoint> registration_deadline_;
  std::optional<TimePoint> next_renewal_;
  std::optional<TimePoint> asked_again_;  // and not answered yet
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
