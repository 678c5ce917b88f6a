#include "engine/host/inbox.hpp"

#include <algorithm>
#include <csignal>
#include <utility>

#include "engine/host/children.hpp"

namespace ddipp::engine {
namespace {

constexpr std::size_t kRemembered = 128;  // ids of requests

void remember(std::deque<std::string>& ids, const std::string& id) {
  if (ids.size() == kRemembered) ids.pop_front();
  ids.push_back(id);
}

bool contains(const std::deque<std::string>& ids, const std::string& id) {
  return std::ranges::find(ids, id) != ids.end();
}

}  // namespace

void Inbox::push(Request request) {
  {
    const std::lock_guard lock(mutex_);
    (request.channel == ChannelName::control ? control_ : shell_).push_back(std::move(request));
  }
  net::raise_event(event_.get());
}

std::optional<Request> Inbox::take() {
  const std::lock_guard lock(mutex_);
  auto& queue = control_.empty() ? shell_ : control_;
  if (queue.empty()) return std::nullopt;
  std::optional<Request> request(std::move(queue.front()));
  queue.pop_front();
  current_ = request->msg_id;
  begun_ = false;
  return request;
}

template <class Predicate>
std::vector<Request> Inbox::remove_if(Predicate matches) {
  std::vector<Request> removed;
  for (auto request = shell_.begin(); request != shell_.end();) {
    if (!matches(*request)) {
      ++request;
      continue;
    }
    removed.push_back(std::move(*request));
    request = shell_.erase(request);
  }
  return removed;
}

std::vector<Request> Inbox::remove(const std::vector<std::string>& msg_ids) {
  const std::lock_guard lock(mutex_);
  if (msg_ids.empty()) return remove_if([](const Request&) { return true; });
  aborted_.insert(msg_ids.begin(), msg_ids.end());
  return remove_if([this](const Request& request) { return aborted_.erase(request.msg_id) > 0; });
}

std::vector<Request> Inbox::remove_type(const std::string& msg_type) {
  const std::lock_guard lock(mutex_);
  return remove_if([&](const Request& request) { return request.msg_type == msg_type; });
}

bool Inbox::aborted_in_advance(const std::string& msg_id) {
  const std::lock_guard lock(mutex_);
  return aborted_.erase(msg_id) > 0;
}

void Inbox::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  net::raise_event(event_.get());
}

bool Inbox::stopping() const {
  const std::lock_guard lock(mutex_);
  return stopping_;
}

void Inbox::set_running(bool running) {
  const std::lock_guard lock(mutex_);
  running_ = running;
  running_since_ = std::chrono::steady_clock::now();
  title_.clear();
  if (!running) {
    interrupted_at_.reset();
    if (std::exchange(begun_, false)) remember(ended_, current_);
    return;
  }
  begun_ = true;
  if (std::erase(to_interrupt_, current_) > 0) send_interrupt();
}

void Inbox::set_title(std::string title) {
  const std::lock_guard lock(mutex_);
  title_ = std::move(title);
}

std::string Inbox::title() const {
  const std::lock_guard lock(mutex_);
  return title_;
}

std::optional<std::chrono::nanoseconds> Inbox::running_for() const {
  const std::lock_guard lock(mutex_);
  if (!running_) return std::nullopt;
  return std::chrono::steady_clock::now() - running_since_;
}

void Inbox::send_interrupt() {
  // The system() of the C library ignores SIGINT while it waits: it is meant for its child then.
  struct sigaction action {};
  ::sigaction(SIGINT, nullptr, &action);
  if (action.sa_handler == SIG_IGN) signal_children(SIGINT);
  ::pthread_kill(python_thread_, SIGINT);
  const bool will_be_noticed = python_call_ != nullptr && python_call_();
  if (will_be_noticed && !interrupted_at_) interrupted_at_ = std::chrono::steady_clock::now();
}

Interrupted Inbox::interrupt(const std::string& msg_id) {
  const std::lock_guard lock(mutex_);
  if (running_ && (msg_id.empty() || msg_id == current_)) {
    send_interrupt();
    return Interrupted::sent;
  }
  if (msg_id.empty()) return Interrupted::idle;
  if (contains(ended_, msg_id)) return Interrupted::gone;
  if (!contains(to_interrupt_, msg_id)) remember(to_interrupt_, msg_id);
  return Interrupted::kept;
}

void Inbox::interrupt_taken() {
  const std::lock_guard lock(mutex_);
  interrupted_at_.reset();
}

std::optional<std::chrono::nanoseconds> Inbox::unanswered_for() const {
  const std::lock_guard lock(mutex_);
  if (!interrupted_at_) return std::nullopt;
  return std::chrono::steady_clock::now() - *interrupted_at_;
}

}  // namespace ddipp::engine
