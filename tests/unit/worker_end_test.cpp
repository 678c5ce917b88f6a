#include "engine/core/worker_end.hpp"

#include <csignal>

#include <doctest/doctest.h>

using namespace ddipp::engine;
using namespace std::chrono_literals;

namespace {

const RestartPolicy::TimePoint kStart{};
constexpr int exited(int code) { return code << 8; }  // as waitpid gives it
constexpr int killed(int signal) { return signal; }

const WorkerFacts kRegistered{.registered = true};

}  // namespace

TEST_CASE("the end of a worker is told in words") {
  CHECK(describe({exited(3)}) == "it exited with code 3");
  CHECK(describe({killed(SIGKILL)}) == "it was killed by signal 9 (SIGKILL)");
  CHECK(describe({killed(SIGSEGV)}) == "it was killed by signal 11 (SIGSEGV, segmentation fault)");
  CHECK(describe({killed(SIGKILL), true, 3 * 512 * 1024}) ==
        "it was killed by signal 9 (out of memory: the kernel ended it when it held 1.5 GiB)");
  CHECK(describe({killed(SIGSEGV), true, 0}) ==
        "it was killed by signal 11 (SIGSEGV, segmentation fault)");
  CHECK(exit_code_of({exited(3)}) == 3);
  CHECK(exit_code_of({killed(SIGKILL)}) == 137);
}

TEST_CASE("the names of the policies") {
  CHECK(*parse_restart("never") == RestartWhen::never);
  CHECK(*parse_restart("on-failure") == RestartWhen::on_failure);
  CHECK(*parse_restart("always") == RestartWhen::always);
  CHECK(parse_restart("sometimes").error().find("'sometimes'") != std::string::npos);
}

TEST_CASE("who is started again") {
  const auto starts = [](RestartWhen when, int status, WorkerFacts facts) {
    return RestartPolicy(when).next_start({status}, facts, kStart, kStart + 1min).has_value();
  };
  WorkerFacts asked = kRegistered;
  asked.asked_to_stop = true;
  WorkerFacts lonely = kRegistered;
  lonely.gave_up = true;
  WorkerFacts again = asked;
  again.asked_to_restart = true;

  CHECK_FALSE(starts(RestartWhen::never, killed(SIGKILL), kRegistered));
  CHECK(starts(RestartWhen::on_failure, killed(SIGKILL), kRegistered));
  CHECK(starts(RestartWhen::on_failure, exited(1), kRegistered));
  CHECK_FALSE(starts(RestartWhen::on_failure, exited(0), kRegistered));
  CHECK_FALSE(starts(RestartWhen::on_failure, exited(1), {}));  // it could not even start
  CHECK_FALSE(starts(RestartWhen::on_failure, exited(255), lonely));
  CHECK_FALSE(starts(RestartWhen::on_failure, killed(SIGKILL), asked));
  CHECK(starts(RestartWhen::always, exited(0), kRegistered));
  CHECK(starts(RestartWhen::always, exited(255), lonely));
  CHECK_FALSE(starts(RestartWhen::always, exited(0), asked));
  CHECK(starts(RestartWhen::never, exited(0), again));
}

TEST_CASE("one that dies again and again soon after its start is given up or waited for") {
  RestartPolicy on_failure(RestartWhen::on_failure);
  RestartPolicy always(RestartWhen::always);
  const WorkerEnd end{killed(SIGSEGV)};
  for (int death = 1; death < RestartPolicy::kQuickDeaths; ++death) {
    CHECK(on_failure.next_start(end, kRegistered, kStart, kStart + 1s));
    CHECK(always.next_start(end, kRegistered, kStart, kStart + 1s));
  }
  CHECK_FALSE(on_failure.next_start(end, kRegistered, kStart, kStart + 1s));
  const WorkerFacts served{.registered = true, .served = true};
  for (int death = 0; death < 3 * RestartPolicy::kQuickDeaths; ++death) {
    CHECK(on_failure.next_start(end, served, kStart, kStart + 1s) == 0ms);
  }
  CHECK(always.next_start(end, kRegistered, kStart, kStart + 1s) > 1s);
  // A minute of good work makes up for it.
  CHECK(always.next_start(end, kRegistered, kStart, kStart + 1min) == 0ms);
}
