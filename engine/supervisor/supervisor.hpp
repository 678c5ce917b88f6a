// The supervisor: a process without Python that forks the worker, knows at once how it ended, tells
// the controller, leaves nothing of it behind, and starts it again when asked to.
//
//   supervisor ── forks ── worker, leader of its own process group: Python, io thread
//        └─────── forks ── warden: kills that group should the supervisor be killed
#pragma once

#include <chrono>
#include <csignal>
#include <functional>
#include <optional>
#include <string>
#include <sys/types.h>

#include "engine/border/shared_state.hpp"
#include "engine/core/worker_end.hpp"
#include "engine/supervisor/warden.hpp"
#include "engine/supervisor/worker_source.hpp"
#include "protocol/net/unique_fd.hpp"
#include "protocol/packing.hpp"

namespace ddipp::engine {

// What one worker is started with.
struct WorkerStart {
  protocol::Json connection;
  std::string connection_source;
  std::string uuid;
  std::optional<int> id;  // wished for
};

// The worker's ends of what it shares with the supervisor.
struct WorkerSide {
  int state = -1;  // a file that holds a SharedState
  int stdout_read = -1, stdout_write = -1;
  int stderr_read = -1, stderr_write = -1;
  int fault_write = -1;  // where the interpreter says where it crashed
};

struct SupervisorHooks {
  // Before each start; a failure is one line and ends the engine.
  std::function<Result<WorkerStart>(std::optional<int> id)> prepare;
  // In the forked process; returns an exit code only when it can't become the worker.
  std::function<int(const WorkerStart&, const WorkerSide&)> work;
  // Tells the controller of an engine's end. `details`: its last output, may be empty.
  std::function<void(const WorkerStart&, int id, const std::string& why,
                     const std::string& details)>
      notify;
};

class Supervisor {
 public:
  // Throws std::system_error. `id`: the first worker's wish. `source`: where workers come from, if
  // not from a fork of this process; outlives this.
  Supervisor(SupervisorHooks hooks, RestartWhen restart, std::optional<int> id,
             WorkerSource* source = nullptr);

  // Until the engine has ended; the exit code is the last worker's.
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  void start_worker();
  pid_t fork_worker(const WorkerSide& side);
  [[noreturn]] void become_worker(const WorkerSide& side);
  // Waits for the worker's end; passes signals on.
  WorkerEnd watch();
  // When to look without a signal; nothing for never.
  std::optional<Clock::time_point> next_look() const;
  void on_signal(int number);
  std::optional<WorkerEnd> reap();
  void report(const WorkerEnd& end);
  std::string last_output();
  void clear_group();
  // False when a stop was asked for meanwhile.
  bool pause(std::chrono::milliseconds delay);
  WorkerFacts facts() const;

  SupervisorHooks hooks_;
  RestartPolicy policy_;
  std::optional<int> id_;
  WorkerSource* source_;
  Warden warden_;
  sigset_t watched_{};   // blocked here and taken by sigtimedwait
  sigset_t original_{};  // the worker's
  net::UniqueFd state_;  // what is mapped at shared_, there and in the worker
  SharedState* shared_;
  pid_t worker_ = -1;
  WorkerStart start_;
  net::UniqueFd stdout_, stderr_, fault_;  // read ends
  Clock::time_point started_;
  long oom_kills_ = 0;
  bool stop_asked_ = false;
  std::optional<Clock::time_point> kill_at_;
};

}  // namespace ddipp::engine
