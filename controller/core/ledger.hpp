// Which requests are on their way, and where: the queues that queue_status shows, and what has to
// be answered when an engine dies or the controller stops. Pure. Finished records live in the
// store.
//
// A request is in exactly one list until it is finished: unassigned, or the direct requests or the
// tasks of its engine.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "controller/core/store.hpp"

namespace ddipp::controller {

// What is printed or shown while a request runs.
enum class OutputKind { output, error_output, execute_input, execute_result, error };

class Ledger {
 public:
  explicit Ledger(Store& store) : store_(store) {}

  // Called with every record that gets its result.
  void on_finished(std::function<void(const Record&)> observer) { observer_ = std::move(observer); }

  // A request under an id that is unfinished already is ignored.
  void submit(const RecordPtr& record);
  // A task got an engine, or another one, or (with "") waits for one again.
  void assign(const std::string& msg_id, const std::string& engine);
  // A result came by. True when its client has none yet; otherwise nothing changes, and it is to go
  // no further: a request is answered once. A request of an earlier controller is not known here.
  bool finish(const std::string& msg_id, Parts result, protocol::Timestamp received);
  // As finish(), for an answer that the controller made up: whatever the engine still says is late.
  void give_up(const std::string& msg_id, Parts result, protocol::Timestamp received);
  // Text of a stream, code of execute_input, or packed content.
  void output(const std::string& msg_id, OutputKind kind, std::string_view text);

  RecordPtr find(const std::string& msg_id) const;  // null when it is not on its way
  bool pending(const std::string& msg_id) const { return where_.contains(msg_id); }
  std::size_t pending_count() const { return where_.size(); }
  // Of requests without a result; the buffers of a broadcast, which its parts share, left out.
  std::size_t pending_bytes() const { return pending_bytes_; }
  std::size_t unassigned_count() const { return unassigned_.size(); }

  std::vector<RecordPtr> outstanding() const;
  // Direct requests and broadcasts: tasks are the scheduler's to retry.
  std::vector<RecordPtr> outstanding_on(const std::string& engine) const;

  struct EngineView {
    std::vector<std::string> queue;
    std::vector<std::string> tasks;
    std::vector<std::string> completed;  // the last kRemembered ones
    std::uint64_t completed_count = 0;
  };
  EngineView view(const std::string& engine) const;
  std::size_t load(const std::string& engine) const;
  std::vector<std::string> unassigned() const;

  void forget_engine(const std::string& engine);

  static constexpr std::size_t kRemembered = 1024;
  static constexpr std::size_t kGivenUp = 16384;

 private:
  using List = std::list<RecordPtr>;
  struct Place {
    List* list;
    List::iterator at;
    std::size_t bytes = 0;
  };
  struct Engine {
    List queue;
    List tasks;
    std::deque<std::string> completed;
    std::uint64_t completed_count = 0;
  };

  static std::size_t bytes_of(const Record& record);
  List& list_for(const Record& record);
  RecordPtr find_anywhere(const std::string& msg_id);
  void take_out(const std::string& msg_id);

  Store& store_;
  std::function<void(const Record&)> observer_;
  std::unordered_map<std::string_view, Place> where_;  // by the records' own msg_ids
  std::unordered_map<std::string, Engine> engines_;    // by uuid; nodes don't move
  List unassigned_;
  std::size_t pending_bytes_ = 0;
  std::unordered_set<std::string> given_up_;  // also when the store keeps nothing
  std::deque<std::string> given_up_order_;    // oldest first
};

}  // namespace ddipp::controller
