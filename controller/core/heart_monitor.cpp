#include "controller/core/heart_monitor.hpp"

namespace ddipp::controller {

void HeartMonitor::pong(const std::string& uuid) {
  const auto heart = hearts_.find(uuid);
  if (heart != hearts_.end()) heart->second.answered = true;
}

std::vector<std::string> HeartMonitor::beat(TimePoint now) {
  std::vector<std::string> lost;
  for (auto& [uuid, heart] : hearts_) {
    heart.misses = heart.answered ? 0 : heart.misses + 1;
    heart.answered = false;
    if (heart.misses > options_.max_misses) lost.push_back(uuid);
  }
  for (const auto& uuid : lost) hearts_.erase(uuid);
  // After a stop of the whole process (a debugger, a suspended laptop) the missed beats are not
  // made up for: no engine had a chance to answer them.
  next_beat_ += options_.period;
  if (next_beat_ <= now) next_beat_ = now + options_.period;
  return lost;
}

}  // namespace ddipp::controller
