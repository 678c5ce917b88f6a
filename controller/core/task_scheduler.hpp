// The scheduler of load-balanced views. Pure: events and times go in, actions come out.
//
// The life of a task:
//   1. submit() checks its dependencies; a task that waits for others is blocked;
//   2. the end of the tasks it waits for makes it ready, or impossible;
//   3. a ready task is assigned to an engine that has room and that its targets, its location
//      dependencies and earlier refusals allow, in the order of submission;
//   4. on_result() ends it, or returns it to the ready tasks when it failed with retries left or
//      when the engine does not meet its functional dependency;
//   5. a deadline, the death of its engine or an impossible dependency end it with an error.
// Every submitted task ends exactly once: in a result that is relayed or in a Fail action.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "controller/core/dependency.hpp"
#include "controller/core/engine_pool.hpp"
#include "controller/core/registry.hpp"

namespace ddipp::controller {

struct TaskRequest {
  std::string id;
  std::set<std::string> targets;                     // engines by uuid; empty for any
  Dependency after;                                  // tasks that have to end before
  Dependency follow;                                 // tasks on whose engine it has to run
  std::optional<std::chrono::milliseconds> timeout;  // for getting assigned
  int retries = 0;
};

struct Assign {
  std::string task;
  std::string engine;
};

// Ends a task that has no result.
struct Fail {
  std::string task;
  std::string error;  // name of the client's exception
  std::string why;
};

using TaskAction = std::variant<Assign, Fail>;

struct TaskSchedulerOptions {
  int hwm = 1;  // tasks at most on an engine at a time; 0 for no limit
  Scheme scheme = Scheme::leastload;
  std::size_t remembered = 250'000;  // ended tasks that others may still depend on
  std::function<double()> random = [] { return 0.0; };  // uniform in [0, 1)
};

class TaskScheduler {
 public:
  explicit TaskScheduler(TaskSchedulerOptions options)
      : options_(std::move(options)), pool_(options_.scheme, options_.hwm, options_.random) {}

  void add_engine(const std::string& uuid);
  // Its tasks are retried or fail; `id` and `why` are for the text of the failure.
  void remove_engine(const std::string& uuid, const std::string& id, const std::string& why);

  // It is about to end: what it runs may still finish, and it gets nothing more.
  void retire_engine(const std::string& uuid) { pool_.retire(uuid); }

  void submit(TaskRequest request, TimePoint now);

  struct TaskResult {
    bool success = false;
    bool dependencies_met = true;
  };
  // True when the result is the end of the task and belongs to the client; false when the task goes
  // on elsewhere, or when nobody waits for it (any more).
  bool on_result(const std::string& engine, const std::string& task, TaskResult result);

  void tick(TimePoint now);
  std::optional<TimePoint> next_deadline() const;
  std::vector<TaskAction> take_actions() { return std::exchange(actions_, {}); }

  std::size_t unfinished() const { return tasks_.size(); }
  int load(const std::string& engine) { return pool_.find(engine)->load; }

 private:
  using Order = EnginePool::Order;

  struct Task {
    TaskRequest request;
    Order order = 0;
    std::string engine;             // where it runs now
    std::set<std::string> refused;  // engines that must not get it again
    std::optional<TimePoint> deadline;
    bool ready = false;
  };

  bool constrained(const Task& task) const {
    return !task.request.targets.empty() || !task.request.follow.empty() || !task.refused.empty();
  }

  void fail(const std::string& id, const std::string& error, const std::string& why);
  void finish(const std::string& id, Outcome outcome);
  void settle();                       // tells the dependents of what has ended
  void update(const std::string& id);  // blocked, ready or impossible?
  void make_ready(Task& task);
  void unready(Task& task);
  bool may_run(const Task& task, const std::string& engine) const;
  std::vector<EnginePool::Engine*> allowed(const Task& task);
  bool can_ever_run(const Task& task);
  void schedule();
  void assign(Task& task, EnginePool::Engine& engine);

  TaskSchedulerOptions options_;
  std::unordered_map<std::string, Task> tasks_;        // not ended
  Outcomes outcomes_;                                  // ended
  std::deque<Outcomes::const_pointer> outcome_order_;  // oldest first; nodes don't move
  std::unordered_map<std::string, std::set<std::string>> dependents_;
  EnginePool pool_;
  std::map<Order, std::string> ready_;              // tasks that any engine may run
  std::map<Order, std::string> constrained_ready_;  // the others; engines hold them, too
  std::set<std::pair<TimePoint, std::string>> deadlines_;
  std::vector<std::string> ended_;  // whose dependents have not been told yet
  Order next_order_ = 0;
  std::vector<TaskAction> actions_;
};

}  // namespace ddipp::controller
