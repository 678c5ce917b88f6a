// What the forked process does to become the engine: it turns into the user's interpreter, which
// loads the host library.
#pragma once

#include <string>
#include <vector>

#include "engine/options.hpp"
#include "engine/python_probe.hpp"
#include "engine/supervisor/supervisor.hpp"
#include "protocol/packing.hpp"

namespace ddipp::engine {

// What the host library is to know, see engine/border/host_options.hpp.
protocol::Json host_options(const Options& options, const WorkerStart& start,
                            const WorkerSide& side);

// Path of the host library.
std::string host_library();

// Runs the interpreter in place of this program. Comes back only when that fails, with one line.
std::string replace_by(const Interpreter& interpreter, std::vector<std::string> arguments);

// Replaces this program by the interpreter. Comes back only when that fails, with one line.
std::string enter_interpreter(const Interpreter& interpreter, const Options& options,
                              const WorkerStart& start, const WorkerSide& side);

}  // namespace ddipp::engine
