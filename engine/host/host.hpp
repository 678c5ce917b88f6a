// The C++ half of the engine inside the interpreter: its io thread on one side, the functions of
// the extension module on the other.
#pragma once

#include "engine/host/python_module.hpp"

namespace ddipp::engine {

// Starts the io thread; once, by the interpreter's main thread. `options_fd`: a file with the JSON
// of HostOptions. `state_fd`: a file with a SharedState, which the supervisor maps too. Both are
// closed. What it returns outlives the interpreter. Throws std::exception.
ModuleContext& start_host(int options_fd, int state_fd);

// Sends what is left and ends the io thread, if it runs.
void finish_host();

}  // namespace ddipp::engine
