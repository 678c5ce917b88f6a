// The libraries that dipengine loads beside itself, locally: their libzmq must not mix with the one
// that pyzmq brings.
#pragma once

#include <string>

#include "protocol/result.hpp"

namespace ddipp::engine {

// `name` without folder. Fails with one line.
Result<void*> load_library(const std::string& name);

// A function of a loaded library, null when it has none of that name.
void* find_function(void* library, const char* name);

}  // namespace ddipp::engine
