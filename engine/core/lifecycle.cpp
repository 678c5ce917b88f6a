#include "engine/core/lifecycle.hpp"

#include <algorithm>

namespace ddipp::engine {

using std::chrono::milliseconds;

namespace {

std::string seconds_text(milliseconds duration) {
  return std::to_string((duration.count() + 500) / 1000) + " s";
}

}  // namespace

void Lifecycle::on_registering(TimePoint now) {
  registration_deadline_ = now + options_.registration_timeout;
}

void Lifecycle::on_registered(milliseconds heartbeat_period, TimePoint now) {
  next_renewal_ = now + kRenewal;
  heartbeat_period_ = heartbeat_period;
  registered_at_ = now;
  last_ping_ = now;
}

void Lifecycle::on_python_ready(TimePoint now) {
  python_ready_ = true;
  // Startup code took its time: before the first pong the controller has to know the engine.
  const bool long_ago = registered_at_ && now >= *registered_at_ + kRenewal;
  next_renewal_ = long_ago ? std::optional(now) : std::nullopt;
}

bool Lifecycle::take_renewal(TimePoint now) {
  if (!next_renewal_ || now < *next_renewal_) return false;
  next_renewal_ = python_ready_ ? std::nullopt : std::optional(now + kRenewal);
  if (!asked_again_) asked_again_ = now;
  return true;
}

std::optional<std::string> Lifecycle::take_notice(TimePoint now) {
  if (python_ready_ || now < next_notice_) return std::nullopt;
  next_notice_ = started_ + 2 * (now - started_);
  const auto took = std::chrono::duration_cast<milliseconds>(now - started_);
  return std::string(registered_at_ ? "waiting for startup code, extensions and -c or -s"
                                    : "waiting for Python's imports before registering") +
         ": " + seconds_text(took) + " so far";
}

void Lifecycle::on_disconnected(TimePoint now) {
  if (!disconnected_since_) disconnected_since_ = now;
}

bool Lifecycle::may_answer(TimePoint now) const {
  return registered_at_ && python_ready_ && !next_renewal_ && !asked_again_ &&
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
  std::optional<TimePoint> deadline;
  const auto consider = [&deadline](std::optional<TimePoint> time) {
    if (time && (!deadline || *time < *deadline)) deadline = time;
  };
  if (!python_ready_) consider(next_notice_);
  consider(next_renewal_);
  if (asked_again_) consider(*asked_again_ + options_.registration_timeout);
  if (!registered_at_) {
    consider(registration_deadline_);
    return deadline;
  }
  if (disconnected_since_) consider(*disconnected_since_ + options_.controller_patience);
  if (options_.max_heartbeat_misses > 0) {
    consider(last_ping_ + options_.max_heartbeat_misses * check_period());
  }
  return deadline;
}

std::optional<std::string> Lifecycle::tick(TimePoint now) {
  const auto due = registered_at_ && asked_again_
                       ? std::optional(*asked_again_ + options_.registration_timeout)
                       : registration_deadline_;
  if ((!registered_at_ || asked_again_) && due && now >= *due) {
    return "the controller did not answer the registration within " +
           seconds_text(options_.registration_timeout) +
           "; is it running, and can this machine reach it?";
  }
  if (!registered_at_) return std::nullopt;
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
