#include "controller/held_messages.hpp"

namespace ddipp::controller {

void HeldMessages::hold(const std::string& engine, net::Multipart message,
                        net::Clock::time_point now) {
  if (held_.empty()) next_try_ = now + kRetryInterval;
  held_[engine].push_back({std::move(message), now + kPatience});
}

void HeldMessages::retry(net::Clock::time_point now, const TrySend& try_send,
                         const GiveUp& give_up) {
  if (held_.empty() || now < next_try_) return;
  next_try_ = now + kRetryInterval;
  for (auto entry = held_.begin(); entry != held_.end();) {
    auto& [engine, queue] = *entry;
    while (!queue.empty()) {
      Waiting& first = queue.front();
      if (try_send(first.message) != net::SendStatus::sent) {
        if (now < first.give_up) break;
        give_up(engine, first.message);
      }
      queue.pop_front();
    }
    entry = queue.empty() ? held_.erase(entry) : std::next(entry);
  }
}

std::deque<net::Multipart> HeldMessages::release(const std::string& engine) {
  std::deque<net::Multipart> messages;
  const auto found = held_.find(engine);
  if (found == held_.end()) return messages;
  for (auto& waiting : found->second) messages.push_back(std::move(waiting.message));
  held_.erase(found);
  return messages;
}

}  // namespace ddipp::controller
