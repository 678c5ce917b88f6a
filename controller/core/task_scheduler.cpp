#include "controller/core/task_scheduler.hpp"

#include <algorithm>

#include "controller/core/routing.hpp"

namespace ddipp::controller {

// --- engines ----------------------------------------------------------------------------------

void TaskScheduler::add_engine(const std::string& uuid) {
  EnginePool::Engine& engine = pool_.add(uuid);
  for (const auto& [order, id] : constrained_ready_) {
    if (may_run(tasks_.at(id), uuid)) pool_.hold(engine, order, id);
  }
  schedule();
}

void TaskScheduler::remove_engine(const std::string& uuid, const std::string& name,
                                  const std::string& why) {
  if (pool_.find(uuid) == nullptr) return;
  const EnginePool::Engine gone = pool_.remove(uuid);
  for (const auto& id : gone.running) {
    Task& task = tasks_.at(id);
    task.engine.clear();
    task.refused.insert(uuid);
    if (task.request.retries > 0) {
      --task.request.retries;
      update(id);
    } else {
      fail(id, "EngineError", death_text(name, id, why));
    }
  }
  for (const auto& [order, id] : gone.ready) {
    if (tasks_.contains(id)) update(id);
  }
  schedule();
}

// --- tasks ------------------------------------------------------------------------------------

void TaskScheduler::submit(TaskRequest request, TimePoint now) {
  const std::string id = request.id;
  if (tasks_.contains(id)) return;
  if (const auto old = outcomes_.find(id); old != outcomes_.end()) {  // submitted once more
    std::erase(outcome_order_, &*old);
    outcomes_.erase(old);
  }
  Task& task = tasks_[id];
  task.order = next_order_++;
  if (request.timeout) {
    task.deadline = now + *request.timeout;
    deadlines_.emplace(*task.deadline, id);
  }
  task.request = std::move(request);
  for (const Dependency* dependency : {&task.request.after, &task.request.follow}) {
    for (const auto& other : dependency->ids) {
      if (other == id || !(tasks_.contains(other) || outcomes_.contains(other))) {
        fail(id, "InvalidDependency", "task " + id + " depends on unknown task " + other);
        return schedule();
      }
      if (!outcomes_.contains(other)) dependents_[other].insert(id);
    }
  }
  update(id);
  schedule();
}

void TaskScheduler::update(const std::string& id) {
  Task& task = tasks_.at(id);
  unready(task);
  using State = Dependency::State;
  const State after = task.request.after.check(outcomes_);
  const State follow = task.request.follow.check(outcomes_);
  if (after == State::impossible || follow == State::impossible) {
    return fail(id, "ImpossibleDependency", "a task that it depends on can't end as it has to");
  }
  if (after == State::waiting || follow == State::waiting) return;
  if (!can_ever_run(task)) {
    return fail(id, "ImpossibleDependency", "no engine can run it");
  }
  make_ready(task);
}

bool TaskScheduler::may_run(const Task& task, const std::string& engine) const {
  const TaskRequest& request = task.request;
  if (task.refused.contains(engine)) return false;
  if (!request.targets.empty() && !request.targets.contains(engine)) return false;
  if (request.follow.empty()) return true;
  const auto ran_here = [&](const std::string& id) {
    const auto found = outcomes_.find(id);
    return found != outcomes_.end() && found->second.engine && *found->second.engine == engine &&
           request.follow.accepts(found->second);
  };
  const auto& ids = request.follow.ids;
  return request.follow.all ? std::all_of(ids.begin(), ids.end(), ran_here)
                            : std::any_of(ids.begin(), ids.end(), ran_here);
}

// The engines that may run a task which not every engine may run.
std::vector<EnginePool::Engine*> TaskScheduler::allowed(const Task& task) {
  std::vector<EnginePool::Engine*> found;
  const auto consider = [&](EnginePool::Engine* engine) {
    if (engine != nullptr && may_run(task, engine->uuid)) found.push_back(engine);
  };
  if (!task.request.targets.empty()) {
    for (const auto& uuid : task.request.targets) consider(pool_.find(uuid));
  } else if (!task.request.follow.empty()) {
    std::set<std::string> hosts;
    for (const auto& id : task.request.follow.ids) {
      const auto outcome = outcomes_.find(id);
      if (outcome != outcomes_.end() && outcome->second.engine) {
        hosts.insert(*outcome->second.engine);
      }
    }
    for (const auto& uuid : hosts) consider(pool_.find(uuid));
  } else {
    for (auto& [uuid, engine] : pool_.engines()) consider(&engine);
  }
  return found;
}

// A task without targets or location may wait for engines to come; one that names its engines, by
// uuid or by what ran there, can't run when none of them is left.
bool TaskScheduler::can_ever_run(const Task& task) {
  if (task.request.targets.empty() && task.request.follow.empty()) return true;
  return !allowed(task).empty();
}

void TaskScheduler::make_ready(Task& task) {
  task.ready = true;
  if (!constrained(task)) {
    ready_[task.order] = task.request.id;
    return;
  }
  constrained_ready_[task.order] = task.request.id;
  for (auto* engine : allowed(task)) pool_.hold(*engine, task.order, task.request.id);
}

void TaskScheduler::unready(Task& task) {
  if (!task.ready) return;
  task.ready = false;
  if (ready_.erase(task.order) > 0) return;
  constrained_ready_.erase(task.order);
  if (!task.request.targets.empty()) {
    for (const auto& uuid : task.request.targets) {
      if (auto* engine = pool_.find(uuid)) pool_.release(*engine, task.order);
    }
  } else {
    for (auto& [uuid, engine] : pool_.engines()) pool_.release(engine, task.order);
  }
}

// --- ends -------------------------------------------------------------------------------------

bool TaskScheduler::on_result(const std::string& engine, const std::string& id, TaskResult result) {
  const auto found = tasks_.find(id);
  if (found == tasks_.end() || found->second.engine != engine) return false;
  Task& task = found->second;
  auto* place = pool_.find(engine);
  if (place != nullptr) pool_.end(*place, id);
  task.engine.clear();
  const bool again = !result.dependencies_met || (!result.success && task.request.retries > 0);
  if (again) {
    if (result.dependencies_met) --task.request.retries;
    task.refused.insert(engine);
    update(id);
  } else {
    finish(id, {result.success, place != nullptr ? place->name : nullptr});
  }
  schedule();
  return !again;
}

void TaskScheduler::fail(const std::string& id, const std::string& error, const std::string& why) {
  actions_.emplace_back(Fail{id, error, why});
  finish(id, {false, nullptr});
}

void TaskScheduler::finish(const std::string& id, Outcome outcome) {
  Task& task = tasks_.at(id);
  unready(task);
  if (task.deadline) deadlines_.erase({*task.deadline, id});
  for (const Dependency* dependency : {&task.request.after, &task.request.follow}) {
    for (const auto& other : dependency->ids) {
      const auto waiting = dependents_.find(other);
      if (waiting != dependents_.end()) waiting->second.erase(id);
    }
  }
  tasks_.erase(id);
  const auto [ended, is_new] = outcomes_.insert_or_assign(id, std::move(outcome));
  outcome_order_.push_back(&*ended);
  if (outcome_order_.size() > options_.remembered) {
    outcomes_.erase(outcomes_.find(outcome_order_.front()->first));
    outcome_order_.pop_front();
  }
  ended_.push_back(id);
}

// A loop, not a recursion: the end of one task can end a chain of any length.
void TaskScheduler::settle() {
  while (!ended_.empty()) {
    const auto found = dependents_.find(ended_.back());
    ended_.pop_back();
    if (found == dependents_.end()) continue;
    const auto waiting = std::move(found->second);
    dependents_.erase(found);
    for (const auto& id : waiting) {
      const auto task = tasks_.find(id);
      if (task != tasks_.end() && task->second.engine.empty()) update(id);
    }
  }
}

void TaskScheduler::tick(TimePoint now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const std::string id = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    Task& task = tasks_.at(id);
    task.deadline.reset();
    if (task.engine.empty()) fail(id, "TaskTimeout", "task " + id + " was not assigned in time");
  }
  schedule();
}

std::optional<TimePoint> TaskScheduler::next_deadline() const {
  if (deadlines_.empty()) return std::nullopt;
  return deadlines_.begin()->first;
}

// --- assignment -------------------------------------------------------------------------------

// Again and again the earliest submitted task that some engine with room may run.
void TaskScheduler::schedule() {
  settle();
  while (pool_.any_free()) {
    const auto* held = pool_.earliest_held();
    const bool any = !ready_.empty() && (held == nullptr || ready_.begin()->first < held->first);
    if (!any && held == nullptr) return;
    Task& task = tasks_.at(any ? ready_.begin()->second : held->second);
    auto* engine = any ? pool_.choose() : pool_.choose_of(allowed(task));
    if (engine == nullptr) return;
    assign(task, *engine);
  }
}

void TaskScheduler::assign(Task& task, EnginePool::Engine& engine) {
  unready(task);
  pool_.start(engine, task.request.id);
  task.engine = engine.uuid;
  actions_.emplace_back(Assign{task.request.id, engine.uuid});
}

}  // namespace ddipp::controller
