// A cell whose client is gone, which failed on one engine and waits for it on the others. Pure.
//
// A client ends such a cell itself. Without one, GPUs would spin in a collective for ever.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "controller/record.hpp"
#include "controller/registry.hpp"

namespace ddipp::controller {

class AbandonedCell {
 public:
  void on_clients(bool present, TimePoint now) {
    clients_ = present;
    alone_since_ = now;
  }

  // A cell failed on an engine, also by the engine's death; `cell` has its result.
  void on_failure(const Record& cell, TimePoint now) {
    if (!cell.received) return;
    // Clients send a cell to all engines at once, and the next one when all have answered.
    began_until_ = std::max(*cell.received, cell.arrived + kSent);
    failed_at_ = now;
  }

  // Whether some of what is outstanding is of that cell and is to be ended now. To be called when
  // next_look() has come, which is kGrace later then.
  bool due(const std::vector<RecordPtr>& outstanding, TimePoint now) {
    const bool waits = std::ranges::any_of(outstanding, [&](const RecordPtr& record) {
      return record->msg_type == kCell && record->arrived <= began_until_;
    });
    ended_at_ = now;
    if (!waits) failed_at_.reset();
    return waits;
  }

  std::optional<TimePoint> next_look() const {
    if (clients_ || !failed_at_) return std::nullopt;
    return std::max({*failed_at_, alone_since_, ended_at_}) + kGrace;
  }

  static constexpr const char* kCell = "execute_request";
  static constexpr std::chrono::seconds kGrace{10};  // what others may go on computing

 private:
  static constexpr std::chrono::milliseconds kSent{50};

  bool clients_ = false;
  TimePoint alone_since_{};
  TimePoint ended_at_{};
  std::optional<TimePoint> failed_at_;
  protocol::Timestamp began_until_{};
};

}  // namespace ddipp::controller
