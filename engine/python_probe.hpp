// Finds the interpreter to host.
#pragma once

#include <filesystem>
#include <string>

#include "protocol/result.hpp"

namespace ddipp::engine {

// --python, else $VIRTUAL_ENV, $CONDA_PREFIX, the interpreter beside this program, python3 on PATH.
// Fails with one line.
Result<std::filesystem::path> find_interpreter(const std::string& wish);

struct Interpreter {
  std::string executable;  // its own sys.executable
};

// Asks the interpreter itself. Fails with one line when it is no CPython of 3.9 or later.
Result<Interpreter> probe(const std::filesystem::path& python);

}  // namespace ddipp::engine
