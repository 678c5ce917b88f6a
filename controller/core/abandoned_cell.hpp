// A cell whose client is gone, which failed on one engine and waits for it on the others. Pure.
//
// A client ends such a cell itself. Without one, GPUs would spin in a collective for ever.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "controller/core/record.hpp"
#include "controller/core/registry.hpp"
#include "protocol/extensions.hpp"

namespace ddipp::controller {

class AbandonedCell {
 public:
  void on_clients(bool present, TimePoint now) {
    clients_ = present;
    alone_since_ = now;
  }

  // A request for an engine failed, also by the engine's death; it has its result.
  void on_failure(const Record& request, TimePoint now) {
    if (!is_cell(request) || !request.received) return;
    // Clients send a cell to all engines at once, and the next one when all have answered.
    began_until_ = std::max(*request.received, request.arrived + kSent);
    failed_at_ = now;
    const auto metadata = protocol::unpack(request.request.metadata, request.packing);
    const auto terms = protocol::extensions::cell_terms(metadata ? *metadata : protocol::Json());
    grace_ = !terms ? kGrace
                    : std::chrono::duration_cast<std::chrono::milliseconds>(
                          std::chrono::duration<double>(std::min(terms->grace_s, kLongestGrace)));
  }

  // The engines, by uuid, on which that cell is outstanding and is to be ended now. To be called
  // when next_look() has come, which is the grace time later then.
  std::set<std::string> due(const std::vector<RecordPtr>& outstanding, TimePoint now) {
    std::set<std::string> engines;
    for (const auto& record : outstanding) {
      if (is_cell(*record) && record->arrived <= began_until_) engines.insert(record->engine);
    }
    ended_at_ = now;
    if (engines.empty()) failed_at_.reset();
    return engines;
  }

  std::optional<TimePoint> next_look() const {
    if (clients_ || !failed_at_) return std::nullopt;
    return std::max({*failed_at_, alone_since_, ended_at_}) + grace_;
  }

  // What others may go on computing, unless the cell says otherwise.
  static constexpr std::chrono::milliseconds kGrace{10'000};

 private:
  static constexpr double kLongestGrace = 1e6;  // seconds
  static constexpr std::chrono::milliseconds kSent{50};

  // A task that any engine may do waits for nobody.
  static bool is_cell(const Record& record) {
    return record.queue == Queue::mux && record.msg_type == "execute_request";
  }

  bool clients_ = false;
  std::chrono::milliseconds grace_ = kGrace;
  TimePoint alone_since_{};
  TimePoint ended_at_{};
  std::optional<TimePoint> failed_at_;
  protocol::Timestamp began_until_{};
};

}  // namespace ddipp::controller
