#include "engine/host/inbox.hpp"

#include <algorithm>
#include <csignal>

#include "engine/host/children.hpp"

namespace ddipp::engine {

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

bool Inbox::interrupt() {
  const std::lock_guard lock(mutex_);
  if (!running_) return false;
  ::pthread_kill(python_thread_, SIGINT);
  signal_children(SIGINT);
  return true;
}

}  // namespace ddipp::engine
