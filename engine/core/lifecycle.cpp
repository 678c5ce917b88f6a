#include "engine/core/lifecycle.hpp"

#include <algorithm>

namespace ddipp::engine {

using std::chrono::milliseconds;

namespace {

std::string seconds_text(milliseconds duration) {
  return std::to_string((duration.count() + 500) / 1000) + " s";
}

}  // namespace

void Lifecycle::on_registered(milliseconds heartbeat_period, TimePoint now) {
  heartbeat_period_ = heartbeat_period;
  registered_at_ = now;
  last_ping_ = now;
}

void Lifecycle::on_disconnected(TimePoint now) {
  if (!disconnected_since_) disconnected_since_ = now;
}

bool Lifecycle::may_answer(TimePoint now) const {
  return registered_at_ && python_ready_ &&
         (iopub_ready_ || now >= *registered_at_ + options_.iopub_timeout);
}

bool Lifecycle::on_ping(TimePoint now) {
  last_ping_ = now;
  if (!may_answer(now)) return false;
  answered_ = true;
  return true;
}

bool Lifecycle::take_completed() {
  if (!answered_ || completed_taken_) return false;
  completed_taken_ = true;
  return true;
}

// A little longer than the period, as the stock engine checks, so that jitter is no miss.
milliseconds Lifecycle::check_period() const { return heartbeat_period_ + milliseconds(500); }

std::optional<TimePoint> Lifecycle::next_deadline() const {
  if (!registered_at_) return registration_deadline_;
  std::optional<TimePoint> deadline;
  if (disconnected_since_) deadline = *disconnected_since_ + options_.controller_patience;
  if (options_.max_heartbeat_misses > 0) {
    const auto silent = last_ping_ + options_.max_heartbeat_misses * check_period();
    deadline = deadline ? std::min(*deadline, silent) : silent;
  }
  return deadline;
}

std::optional<std::string> Lifecycle::tick(TimePoint now) {
  if (!registered_at_) {
    if (now < registration_deadline_) return std::nullopt;
    return "the controller did not answer the registration within " +
           seconds_text(options_.registration_timeout) +
           "; is it running, and can this machine reach it?";
  }
  if (disconnected_since_ && now >= *disconnected_since_ + options_.controller_patience) {
    return "the connection to the controller has been down for " +
           seconds_text(options_.controller_patience);
  }
  const int misses = options_.max_heartbeat_misses;
  if (misses > 0 && now >= last_ping_ + misses * check_period()) {
    return "no heartbeat from the controller for " + seconds_text(misses * check_period());
  }
  return std::nullopt;
}

}  // namespace ddipp::engine
