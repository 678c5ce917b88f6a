// Engines without Python: they register, answer heartbeats and answer every request at once.
#pragma once

#include "load/connection.hpp"

namespace ddipp::load {

// Prints "ready <seconds>" with the time until all are registered, then the uuids of a bare relay's
// engines, one a line, and runs until it is killed.
[[noreturn]] void run_engines(const Connection& connection, int count);

}  // namespace ddipp::load
