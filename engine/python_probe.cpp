#include "engine/python_probe.hpp"

#include <system_error>
#include <unistd.h>

#include <boost/process.hpp>
#include <nlohmann/json.hpp>

#include "common/profile.hpp"

namespace ddipp::engine {
namespace {

namespace fs = std::filesystem;
namespace process = boost::process;

constexpr const char* kProbeScript = R"(
import json, sys
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": ".".join(map(str, sys.version_info[:3])),
    "minor": list(sys.version_info[:2]),
    "executable": sys.executable,
}))
)";

bool is_program(const fs::path& path) { return ::access(path.c_str(), X_OK) == 0; }

}  // namespace

Result<fs::path> find_interpreter(const std::string& wish) {
  if (!wish.empty()) {
    if (is_program(wish)) return fs::path(wish);
    const auto on_path = process::search_path(wish);
    if (!on_path.empty()) return fs::path(on_path.string());
    return Failure{"--python " + wish + ": there is no such program"};
  }
  std::vector<fs::path> places;
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (!environment(variable).empty()) {
      places.push_back(fs::path(environment(variable)) / "bin" / "python");
    }
  }
  std::error_code ignored;
  const fs::path self = fs::read_symlink("/proc/self/exe", ignored);
  if (!ignored) places.push_back(self.parent_path() / "python");
  for (const auto& place : places) {
    if (is_program(place)) return place;
  }
  const auto on_path = process::search_path("python3");
  if (!on_path.empty()) return fs::path(on_path.string());
  return Failure{std::string(
      "found no Python to host: activate an environment or name one with --python PATH")};
}

Result<Interpreter> probe(const fs::path& python) {
  std::string text;
  try {
    process::ipstream output;
    process::child child(python.string(), "-I", "-S", "-c", kProbeScript, process::std_out > output,
                         process::std_in < process::null);
    std::getline(output, text);
    child.wait();
  } catch (const process::process_error& error) {
    return Failure{"can't run " + python.string() + ": " + error.code().message()};
  }
  const auto answer = nlohmann::json::parse(text, nullptr, false);
  if (answer.is_discarded()) {
    return Failure{python.string() + " does not behave like a Python interpreter"};
  }
  const std::string version = answer.at("version").get<std::string>();
  const auto minor = answer.at("minor").get<std::vector<int>>();
  if (answer.at("implementation") != "cpython" || minor < std::vector<int>{3, 9}) {
    return Failure{python.string() + " is " + answer.at("implementation").get<std::string>() + " " +
                   version + "; the engine hosts CPython 3.9 or later"};
  }
  return Interpreter{answer.at("executable").get<std::string>()};
}

}  // namespace ddipp::engine
