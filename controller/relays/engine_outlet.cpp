#include "controller/relays/engine_outlet.hpp"

#include <utility>
#include <vector>

namespace ddipp::controller {

void EngineOutlet::send(const std::string& engine, net::Multipart message,
                        net::Clock::time_point now) {
  if (!held_.contains(engine) && net::send(socket_, message) == net::SendStatus::sent) return;
  if (held_.empty()) next_try_ = now + kRetryInterval;
  held_[engine].push_back({std::move(message), now + kPatience});
}

void EngineOutlet::retry(net::Clock::time_point now, const GiveUp& give_up) {
  if (held_.empty() || now < next_try_) return;
  next_try_ = now + kRetryInterval;
  std::vector<std::pair<std::string, net::Multipart>> given_up;
  for (auto entry = held_.begin(); entry != held_.end();) {
    auto& [engine, queue] = *entry;
    while (!queue.empty()) {
      Waiting& first = queue.front();
      if (net::send(socket_, first.message) != net::SendStatus::sent) {
        if (now < first.give_up) break;
        given_up.emplace_back(engine, std::move(first.message));
      }
      queue.pop_front();
    }
    entry = queue.empty() ? held_.erase(entry) : std::next(entry);
  }
  for (auto& [engine, message] : given_up) give_up(engine, message);  // may send, or forget engines
}

}  // namespace ddipp::controller
