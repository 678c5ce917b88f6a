// Finds the interpreter to host and its shared library.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "protocol/result.hpp"

namespace ddipp::engine {

// --python, else $VIRTUAL_ENV, $CONDA_PREFIX, the interpreter beside this program, python3 on PATH.
// Fails with one line.
Result<std::filesystem::path> find_interpreter(const std::string& wish);

struct Interpreter {
  std::string executable;                       // its own sys.executable
  std::string version;                          // "3.11.7"
  std::vector<std::string> library_candidates;  // where libpython may be, best first
};

// Asks the interpreter itself. Fails with one line when it is no CPython of 3.9 or later.
Result<Interpreter> probe(const std::filesystem::path& python);

// Loads libpython for the whole process, as if it were linked. Fails with one line that says what
// to install when there is none of the very same version.
Result<std::string> load_libpython(const Interpreter& interpreter);

}  // namespace ddipp::engine
