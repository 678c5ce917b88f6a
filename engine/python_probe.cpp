#include "engine/python_probe.hpp"

#include <dlfcn.h>
#include <system_error>
#include <unistd.h>

#include <boost/process.hpp>
#include <nlohmann/json.hpp>

#include "launcher/profile.hpp"

namespace ddipp::engine {
namespace {

namespace fs = std::filesystem;
namespace process = boost::process;

constexpr const char* kProbeScript = R"(
import json, sys, sysconfig
v = sysconfig.get_config_var
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": ".".join(map(str, sys.version_info[:3])),
    "minor": list(sys.version_info[:2]),
    "executable": sys.executable,
    "folders": [v("LIBDIR"), sys.base_prefix + "/lib", v("LIBPL")],
    "names": [v("INSTSONAME"), v("LDLIBRARY")],
}))
)";

bool is_program(const fs::path& path) { return ::access(path.c_str(), X_OK) == 0; }

bool is_shared_library(const std::string& name) { return name.find(".so") != std::string::npos; }

std::vector<std::string> candidates(const nlohmann::json& answer) {
  const std::string soname = "libpython" + std::to_string(answer.at("minor")[0].get<int>()) + "." +
                             std::to_string(answer.at("minor")[1].get<int>()) + ".so.1.0";
  std::vector<std::string> names;
  for (const auto& name : answer.at("names")) {
    if (name.is_string() && is_shared_library(name.get<std::string>())) names.push_back(name);
  }
  names.push_back(soname);
  std::vector<std::string> paths;
  for (const auto& folder : answer.at("folders")) {
    for (const auto& name : names) {
      if (!folder.is_string()) continue;
      const fs::path path = fs::path(folder.get<std::string>()) / name;
      if (fs::exists(path)) paths.push_back(path.string());
    }
  }
  paths.push_back(soname);  // wherever the dynamic linker looks
  return paths;
}

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
  return Interpreter{answer.at("executable").get<std::string>(), version, candidates(answer)};
}

Result<std::string> load_libpython(const Interpreter& interpreter) {
  for (const auto& path : interpreter.library_candidates) {
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    using VersionFunction = const char*();
    auto* version = reinterpret_cast<VersionFunction*>(::dlsym(library, "Py_GetVersion"));
    const bool same =
        version != nullptr && (std::string(version()) + " ").starts_with(interpreter.version + " ");
    if (!same) {
      ::dlclose(library);
      continue;
    }
    ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);  // extension modules look for it there
    return path;
  }
  const std::string minor = interpreter.version.substr(0, interpreter.version.rfind('.'));
  return Failure{interpreter.executable + " (Python " + interpreter.version +
                 ") has no shared libpython. Install it: 'apt-get install libpython" + minor +
                 "' for Debian's Python, 'PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install " +
                 interpreter.version + "' for pyenv's; conda's and uv's Pythons bring it along"};
}

}  // namespace ddipp::engine
