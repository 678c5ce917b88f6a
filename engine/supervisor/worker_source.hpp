// Where workers come from if the supervisor does not fork them itself.
#pragma once

#include <optional>
#include <sys/types.h>

#include "engine/core/worker_end.hpp"

namespace ddipp::engine {

struct WorkerStart;
struct WorkerSide;

class WorkerSource {
 public:
  WorkerSource() = default;
  WorkerSource(const WorkerSource&) = delete;
  WorkerSource& operator=(const WorkerSource&) = delete;
  virtual ~WorkerSource() = default;

  // A new worker, leader of its own process group. Nothing when the supervisor has to fork it.
  virtual std::optional<pid_t> start(const WorkerStart& start, const WorkerSide& side) = 0;

  // How the last worker ended, once; to be asked after a SIGIO, which announces it.
  virtual std::optional<WorkerEnd> ended() = 0;

  // Whether no SIGIO will announce the end, so that it has to be asked for from time to time.
  virtual bool is_silent() const = 0;
};

}  // namespace ddipp::engine
