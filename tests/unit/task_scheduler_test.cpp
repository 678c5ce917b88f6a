#include "controller/core/task_scheduler.hpp"

#include <array>
#include <random>

#include <doctest/doctest.h>

using namespace ddipp::controller;
using namespace std::chrono_literals;

namespace {

const TimePoint kStart{};

TaskRequest task(const std::string& id) {
  TaskRequest request;
  request.id = id;
  return request;
}

Dependency on(std::vector<std::string> ids) {
  Dependency dependency;
  dependency.ids = std::move(ids);
  return dependency;
}

// A scheduler whose actions are read as one text: "a>e" for an assignment, "a!Error" for an end.
struct World {
  explicit World(int hwm = 1) : scheduler(options(hwm)) {}

  static TaskSchedulerOptions options(int hwm) {
    TaskSchedulerOptions made;
    made.hwm = hwm;
    return made;
  }

  std::string actions() {
    std::string text;
    for (const auto& action : scheduler.take_actions()) {
      if (!text.empty()) text += ' ';
      if (const auto* assign = std::get_if<Assign>(&action)) {
        text += assign->task + ">" + assign->engine;
      } else {
        const auto& fail = std::get<Fail>(action);
        text += fail.task + "!" + fail.error;
      }
    }
    return text;
  }

  std::string submit(TaskRequest request) {
    scheduler.submit(std::move(request), kStart);
    return actions();
  }

  bool done(const std::string& engine, const std::string& id, bool success = true) {
    return scheduler.on_result(engine, id, {success, true});
  }

  TaskScheduler scheduler;
};

}  // namespace

TEST_CASE("tasks wait for an engine and go in the order of submission") {
  World world;
  CHECK(world.submit(task("a")).empty());
  CHECK(world.submit(task("b")).empty());
  world.scheduler.add_engine("e");
  CHECK(world.actions() == "a>e");
  CHECK(world.done("e", "a"));
  CHECK(world.actions() == "b>e");
}

TEST_CASE("the high-water mark limits the tasks on an engine, and 0 does not") {
  World two(2);
  two.scheduler.add_engine("e");
  for (const char* id : {"a", "b", "c"}) two.scheduler.submit(task(id), kStart);
  CHECK(two.actions() == "a>e b>e");
  World unlimited(0);
  unlimited.scheduler.add_engine("e");
  for (const char* id : {"a", "b", "c"}) unlimited.scheduler.submit(task(id), kStart);
  CHECK(unlimited.actions() == "a>e b>e c>e");
  CHECK(unlimited.scheduler.load("e") == 3);
}

TEST_CASE("the least loaded engine is chosen, the least recently used of equals") {
  World world(0);
  world.scheduler.add_engine("e");
  world.scheduler.add_engine("f");
  CHECK(world.submit(task("a")) == "a>e");
  CHECK(world.submit(task("b")) == "b>f");
  CHECK(world.submit(task("c")) == "c>e");
  CHECK(world.done("e", "a"));
  CHECK(world.done("e", "c"));
  CHECK(world.submit(task("d")) == "d>e");
}

TEST_CASE("targets are respected and do not hold up other tasks") {
  World world;
  world.scheduler.add_engine("e");
  world.scheduler.add_engine("f");
  TaskRequest first = task("a");
  first.targets = {"f"};
  TaskRequest second = task("b");
  second.targets = {"f"};
  CHECK(world.submit(first) == "a>f");
  CHECK(world.submit(second).empty());
  CHECK(world.submit(task("c")) == "c>e");
  CHECK(world.done("f", "a"));
  CHECK(world.actions() == "b>f");
  TaskRequest nowhere = task("d");
  nowhere.targets = {"gone"};
  CHECK(world.submit(nowhere) == "d!ImpossibleDependency");
}

TEST_CASE("a task runs after the tasks that it waits for") {
  World world;
  world.scheduler.add_engine("e");
  world.scheduler.add_engine("f");
  CHECK(world.submit(task("a")) == "a>e");
  TaskRequest later = task("b");
  later.after = on({"a"});
  CHECK(world.submit(later).empty());
  CHECK(world.done("e", "a"));
  CHECK(world.actions() == "b>f");
}

TEST_CASE("a task is impossible once what it waits for can't end as it has to") {
  World world;
  world.scheduler.add_engine("e");
  CHECK(world.submit(task("a")) == "a>e");
  TaskRequest on_success = task("b");
  on_success.after = on({"a"});
  TaskRequest on_failure = task("c");
  on_failure.after = on({"a"});
  on_failure.after.success = false;
  on_failure.after.failure = true;
  TaskRequest chained = task("d");
  chained.after = on({"b"});
  world.submit(on_success);
  world.submit(on_failure);
  world.submit(chained);
  CHECK(world.done("e", "a", false));
  const std::string actions = world.actions();
  CHECK(actions.find("b!ImpossibleDependency") != std::string::npos);
  CHECK(actions.find("d!ImpossibleDependency") != std::string::npos);
  CHECK(actions.find("c>e") != std::string::npos);
}

TEST_CASE("any of several is enough when the dependency says so") {
  World world(0);
  world.scheduler.add_engine("e");
  world.submit(task("a"));
  world.submit(task("b"));
  TaskRequest any = task("c");
  any.after = on({"a", "b"});
  any.after.all = false;
  CHECK(world.submit(any).empty());
  CHECK(world.done("e", "a", false));
  CHECK(world.actions().empty());
  CHECK(world.done("e", "b"));
  CHECK(world.actions() == "c>e");
}

TEST_CASE("unknown dependencies and a dependency on itself are invalid") {
  World world;
  TaskRequest unknown = task("a");
  unknown.after = on({"never"});
  CHECK(world.submit(unknown) == "a!InvalidDependency");
  TaskRequest itself = task("b");
  itself.follow = on({"b"});
  CHECK(world.submit(itself) == "b!InvalidDependency");
}

TEST_CASE("a task follows others to the engine where they ran") {
  World world;
  world.scheduler.add_engine("e");
  world.scheduler.add_engine("f");
  CHECK(world.submit(task("a")) == "a>e");
  CHECK(world.submit(task("b")) == "b>f");
  TaskRequest follower = task("c");
  follower.follow = on({"b"});
  CHECK(world.submit(follower).empty());
  CHECK(world.done("e", "a"));
  CHECK(world.actions().empty());
  CHECK(world.done("f", "b"));
  CHECK(world.actions() == "c>f");
  CHECK(world.done("f", "c"));
  TaskRequest both = task("d");
  both.follow = on({"a", "b"});
  CHECK(world.submit(both) == "d!ImpossibleDependency");
}

TEST_CASE("a task whose location is gone is impossible instead of waiting for ever") {
  World world;
  world.scheduler.add_engine("e");
  world.scheduler.add_engine("f");
  CHECK(world.submit(task("a")) == "a>e");
  CHECK(world.done("e", "a"));
  TaskRequest busy = task("b");
  busy.targets = {"e"};
  CHECK(world.submit(busy) == "b>e");
  TaskRequest follower = task("c");
  follower.follow = on({"a"});
  CHECK(world.submit(follower).empty());
  world.scheduler.remove_engine("e", "7", "it died");
  CHECK(world.actions() == "b!EngineError c!ImpossibleDependency");
}

TEST_CASE("a failed task is retried on another engine while retries are left") {
  World world;
  world.scheduler.add_engine("e");
  world.scheduler.add_engine("f");
  TaskRequest request = task("a");
  request.retries = 1;
  CHECK(world.submit(request) == "a>e");
  CHECK_FALSE(world.done("e", "a", false));
  CHECK(world.actions() == "a>f");
  CHECK(world.done("f", "a", false));
  CHECK(world.scheduler.unfinished() == 0);
}

TEST_CASE("an unmet functional dependency tries the other engines and then waits for new ones") {
  World world;
  world.scheduler.add_engine("e");
  CHECK(world.submit(task("a")) == "a>e");
  CHECK_FALSE(world.scheduler.on_result("e", "a", {false, false}));
  CHECK(world.actions().empty());
  world.scheduler.add_engine("f");
  CHECK(world.actions() == "a>f");
  TaskRequest only = task("b");
  only.targets = {"e"};
  CHECK(world.submit(only) == "b>e");
  CHECK_FALSE(world.scheduler.on_result("e", "b", {false, false}));
  CHECK(world.actions() == "b!ImpossibleDependency");
}

TEST_CASE("the tasks of a dead engine fail, or go on elsewhere when they may be retried") {
  World world;
  world.scheduler.add_engine("e");
  CHECK(world.submit(task("a")) == "a>e");
  world.scheduler.remove_engine("e", "7", "it died");
  CHECK(world.actions() == "a!EngineError");
  CHECK_FALSE(world.done("e", "a"));  // a late result

  world.scheduler.add_engine("f");
  TaskRequest request = task("b");
  request.retries = 2;
  CHECK(world.submit(request) == "b>f");
  world.scheduler.add_engine("g");
  world.scheduler.remove_engine("f", "7", "it died");
  CHECK(world.actions() == "b>g");
}

TEST_CASE("a task that is not assigned in time ends, one that runs goes on") {
  World world;
  world.scheduler.add_engine("e");
  TaskRequest running = task("a");
  running.timeout = 100ms;
  TaskRequest waiting = task("b");
  waiting.timeout = 100ms;
  CHECK(world.submit(running) == "a>e");
  CHECK(world.submit(waiting).empty());
  CHECK(world.scheduler.next_deadline() == kStart + 100ms);
  world.scheduler.tick(kStart + 99ms);
  CHECK(world.actions().empty());
  world.scheduler.tick(kStart + 100ms);
  CHECK(world.actions() == "b!TaskTimeout");
  CHECK_FALSE(world.scheduler.next_deadline());
  CHECK(world.done("e", "a"));
}

TEST_CASE("results of strangers and results that come twice belong to nobody") {
  World world;
  world.scheduler.add_engine("e");
  world.scheduler.add_engine("f");
  world.submit(task("a"));
  CHECK_FALSE(world.done("f", "a"));
  CHECK_FALSE(world.done("e", "b"));
  CHECK(world.done("e", "a"));
  CHECK_FALSE(world.done("e", "a"));
  CHECK(world.scheduler.load("e") == 0);
}

TEST_CASE("a chain of 100000 tasks falls without a deep recursion") {
  World world;
  world.scheduler.add_engine("e");
  world.submit(task("0"));
  constexpr int count = 100'000;
  for (int i = 1; i < count; ++i) {
    TaskRequest next = task(std::to_string(i));
    next.after = on({std::to_string(i - 1)});
    world.scheduler.submit(std::move(next), kStart);
  }
  CHECK(world.done("e", "0", false));
  CHECK(world.scheduler.take_actions().size() == count - 1);
  CHECK(world.scheduler.unfinished() == 0);
}

TEST_CASE("an engine that comes late gets the next task") {
  World world(0);
  world.scheduler.add_engine("e");
  CHECK(world.submit(task("a")) == "a>e");
  CHECK(world.done("e", "a"));
  world.scheduler.add_engine("f");
  CHECK(world.submit(task("b")) == "b>f");
}

TEST_CASE("100000 tasks on 1000 engines, each under every scheme") {
  for (const Scheme scheme :
       {Scheme::leastload, Scheme::lru, Scheme::plainrandom, Scheme::twobin}) {
    TaskSchedulerOptions options;
    options.scheme = scheme;
    std::mt19937 random(1);
    options.random = [&] { return std::uniform_real_distribution<double>()(random); };
    TaskScheduler scheduler(options);
    for (int i = 0; i < 1000; ++i) scheduler.add_engine("e" + std::to_string(i));
    std::size_t finished = 0;
    for (int i = 0; i < 100'000; ++i) {
      scheduler.submit(task(std::to_string(i)), kStart);
      for (const auto& action : scheduler.take_actions()) {
        const auto& assign = std::get<Assign>(action);
        if (i % 2 == 0) continue;  // the others fill the engines and wait
        finished += scheduler.on_result(assign.engine, assign.task, {true, true}) ? 1 : 0;
      }
    }
    CHECK(finished > 0);
    CHECK(scheduler.unfinished() == 100'000 - finished);
  }
}

TEST_CASE("only the last ended tasks are remembered") {
  TaskSchedulerOptions options;
  options.remembered = 2;
  World world;
  world.scheduler = TaskScheduler(options);
  world.scheduler.add_engine("e");
  for (const char* id : {"a", "b", "c"}) {
    world.submit(task(id));
    CHECK(world.done("e", id));
  }
  TaskRequest on_old = task("d");
  on_old.after = on({"a"});
  CHECK(world.submit(on_old) == "d!InvalidDependency");
  TaskRequest on_recent = task("e");
  on_recent.after = on({"c"});
  CHECK(world.submit(on_recent) == "e>e");
}

TEST_CASE("dependencies are read in every form that clients write") {
  using ddipp::protocol::Json;
  CHECK(parse_dependency(Json())->empty());
  CHECK(parse_dependency(Json("a"))->ids == std::vector<std::string>{"a"});
  CHECK(parse_dependency(Json{"b", "a", "b"})->ids == std::vector<std::string>{"a", "b"});
  const auto dependency = parse_dependency(
      Json{{"dependencies", {"a"}}, {"all", false}, {"success", false}, {"failure", true}});
  REQUIRE(dependency);
  CHECK_FALSE(dependency->all);
  CHECK(dependency->accepts({false, nullptr}));
  CHECK_FALSE(parse_dependency(Json{{"success", false}, {"failure", false}}));
  CHECK_FALSE(parse_dependency(Json{1, 2}));
  CHECK_FALSE(parse_dependency(Json(3)));
}

TEST_CASE("every scheme chooses a candidate, also at the ends of its random numbers") {
  const std::array loads{2, 0, 1};
  for (const auto scheme :
       {Scheme::leastload, Scheme::lru, Scheme::plainrandom, Scheme::weighted, Scheme::twobin}) {
    for (const double random : {0.0, 0.5, 0.999999999}) {
      CHECK(choose(scheme, loads, random, 1 - random) < loads.size());
    }
  }
  CHECK(choose(Scheme::leastload, loads, 0, 0) == 1);
  CHECK(choose(Scheme::lru, loads, 0, 0) == 0);
  CHECK(choose(Scheme::plainrandom, loads, 0.9, 0) == 2);
  CHECK(choose(Scheme::weighted, loads, 0.5, 0.5) == 1);
  CHECK(choose(Scheme::twobin, loads, 0.9, 0.5) == 1);
  CHECK(scheme_from_name("twobin") == Scheme::twobin);
  CHECK_FALSE(scheme_from_name("pure"));
}

TEST_CASE("in any order of events every task ends exactly once and loads return to zero") {
  for (unsigned seed = 0; seed < 1500; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto below = [&](unsigned n) { return static_cast<int>(random() % n); };
    TaskSchedulerOptions options;
    options.hwm = below(3);
    options.scheme = static_cast<Scheme>(below(5));
    options.random = [&] { return std::uniform_real_distribution<double>()(random); };
    TaskScheduler scheduler(options);
    std::map<std::string, int> ends;
    std::map<std::string, std::string> running;  // task -> engine
    std::set<std::string> engines;
    int submitted = 0;
    auto now = kStart;

    const auto read_actions = [&] {
      for (const auto& action : scheduler.take_actions()) {
        if (const auto* assign = std::get_if<Assign>(&action)) {
          CHECK(engines.contains(assign->engine));
          CHECK_FALSE(running.contains(assign->task));
          CHECK(ends[assign->task] == 0);
          running[assign->task] = assign->engine;
        } else {
          ++ends[std::get<Fail>(action).task];
          running.erase(std::get<Fail>(action).task);
        }
      }
    };
    const auto some_dependency = [&] {
      Dependency dependency;
      for (int i = below(3); i > 0 && submitted > 0; --i) {
        dependency.ids.push_back(std::to_string(below(static_cast<unsigned>(submitted) + 1)));
      }
      dependency.all = below(2) == 0;
      dependency.failure = below(3) == 0;
      dependency.success = !dependency.failure || below(2) == 0;
      return dependency;
    };
    const auto finish_one = [&](bool clean) {
      if (running.empty()) return;
      auto entry = running.begin();
      std::advance(entry, below(static_cast<unsigned>(running.size())));
      const auto [id, engine] = *entry;
      running.erase(entry);
      const bool success = clean || below(4) != 0;
      const bool met = clean || below(5) != 0;
      if (scheduler.on_result(engine, id, {success, met})) ++ends[id];
    };

    for (int step = 0; step < 150; ++step) {
      now += std::chrono::milliseconds(below(20));
      switch (below(6)) {
        case 0: {
          const std::string uuid = std::string("e") + std::to_string(below(5));
          if (engines.insert(uuid).second) scheduler.add_engine(uuid);
          break;
        }
        case 1: {
          if (engines.empty() || below(3) != 0) break;
          const std::string uuid = *engines.begin();
          engines.erase(engines.begin());
          std::erase_if(running, [&](const auto& entry) { return entry.second == uuid; });
          scheduler.remove_engine(uuid, "7", "it died");
          break;
        }
        case 2:
          finish_one(false);
          break;
        case 3:
          scheduler.tick(now);
          break;
        default: {
          TaskRequest request = task(std::to_string(submitted));
          if (below(3) == 0) request.targets = {std::string("e") + std::to_string(below(5))};
          if (below(3) == 0) request.after = some_dependency();
          if (below(4) == 0) request.follow = some_dependency();
          if (below(3) == 0) request.timeout = std::chrono::milliseconds(1 + below(100));
          request.retries = below(3);
          ++submitted;
          scheduler.submit(std::move(request), now);
        }
      }
      read_actions();
    }
    // In the end there is an engine that nobody has refused, and everything finishes.
    engines.insert("last");
    scheduler.add_engine("last");
    read_actions();
    for (int i = 0; i < 1000 && !running.empty(); ++i) {
      finish_one(true);
      read_actions();
    }
    // What is left waits for tasks or engines that never come; none of it can be lost or doubled.
    std::size_t ended = 0;
    for (const auto& [id, count] : ends) {
      CHECK(count <= 1);
      ended += static_cast<std::size_t>(count);
    }
    CHECK(ended + scheduler.unfinished() == static_cast<std::size_t>(submitted));
    CHECK(scheduler.unfinished() == 0);
    for (const auto& engine : engines) CHECK(scheduler.load(engine) == 0);
  }
}

TEST_CASE("an engine that is about to end finishes what it has and gets nothing more") {
  World world;
  world.scheduler.add_engine("e");
  CHECK(world.submit(task("a")) == "a>e");
  TaskRequest only_there = task("b");
  only_there.targets = {"e"};
  CHECK(world.submit(only_there).empty());
  CHECK(world.submit(task("c")).empty());
  world.scheduler.retire_engine("e");
  world.scheduler.retire_engine("unknown");
  CHECK(world.done("e", "a"));
  CHECK(world.actions().empty());
  world.scheduler.add_engine("f");
  CHECK(world.actions() == "c>f");
  world.scheduler.remove_engine("e", "0", "it was shut down");
  CHECK(world.actions() == "b!ImpossibleDependency");
}
