// How a worker process ended, in words, and whether it is started again. Pure.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "protocol/result.hpp"

namespace ddipp::engine {

struct WorkerEnd {
  int status = 0;              // as waitpid gives it
  bool out_of_memory = false;  // the kernel killed a process for want of memory meanwhile
  long peak_memory_kib = 0;    // resident
  bool known = true;           // false: the process is gone, and nobody could see how
};

// "it was killed by signal 11 (SIGSEGV, segmentation fault)", "it exited with code 3".
std::string describe(const WorkerEnd& end);

// What a shell would say: the exit code, or 128 and the signal.
int exit_code_of(const WorkerEnd& end);

enum class RestartWhen { never, on_failure, always };

// Fails with one line that lists the names: never, on-failure, always.
Result<RestartWhen> parse_restart(std::string_view name);

// What the worker has told about itself before its end.
struct WorkerFacts {
  bool asked_to_stop = false;     // by a signal to the supervisor or by a client
  bool asked_to_restart = false;  // by a client; counts whatever the policy is
  bool registered = false;
  bool served = false;   // it has answered a client
  bool gave_up = false;  // it lost its controller
};

class RestartPolicy {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // Deaths in a row, each soon after a start and before a client was answered, before on-failure
  // gives up. What dies of its clients' code may start again for ever: they are there to see it.
  static constexpr int kQuickDeaths = 5;
  static constexpr std::chrono::seconds kQuick{10};

  explicit RestartPolicy(RestartWhen when) : when_(when) {}

  // How long to wait before the next start; nothing when the engine ends here.
  std::optional<std::chrono::milliseconds> next_start(const WorkerEnd& end,
                                                      const WorkerFacts& facts, TimePoint started,
                                                      TimePoint now);

 private:
  RestartWhen when_;
  int quick_deaths_ = 0;
};

}  // namespace ddipp::engine
