// What is asked of a nursery for one worker, and how a process becomes the nursery.
#pragma once

#include <string>

#include "engine/options.hpp"
#include "engine/python_probe.hpp"
#include "engine/supervisor/nursery.hpp"
#include "engine/supervisor/supervisor.hpp"

namespace ddipp::engine {

// The worker gets the environment, folder, processors and standard files of this process.
NurseryRequest warm_worker_request(const Options& options, const WorkerStart& start,
                                   const WorkerSide& side);

// Replaces this program by the interpreter as nursery. Comes back only when that fails, with one
// line.
std::string enter_nursery(const Interpreter& interpreter, int listener);

}  // namespace ddipp::engine
