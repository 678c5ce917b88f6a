// dipengine: finds the controller and the user's interpreter, and enters it.
#include <chrono>
#include <cstdio>
#include <dlfcn.h>
#include <thread>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "engine/options.hpp"
#include "engine/python_probe.hpp"
#include "launcher/profile.hpp"
#include "launcher/random_uuid.hpp"
#include "protocol/connection_file.hpp"

namespace {

namespace fs = std::filesystem;
using ddipp::Failure;
using ddipp::Result;
using ddipp::engine::Options;
using nlohmann::json;

// Imported by the hosted interpreter. Says in one line what its environment lacks.
constexpr const char* kBootstrap = R"(
import sys
try:
    from ddipp_engine.main import main
except ModuleNotFoundError as missing:
    package = {"ddipp_engine": "ddipp"}.get(missing.name, missing.name)
    print(f"dipengine: {sys.executable} has no module {missing.name!r}; install it with: "
          f"{sys.executable} -m pip install {package}", file=sys.stderr)
    sys.exit(1)
main()
)";

int complain(const std::string& line) {
  std::fprintf(stderr, "dipengine: %s\n", line.c_str());
  return 1;
}

// An engine may be started before its controller has written the file.
void wait_for_file(const fs::path& path, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  bool announced = false;
  while (!fs::exists(path) && Clock::now() < deadline) {
    if (!announced) {
      std::fprintf(stderr, "dipengine: waiting up to %.0f s for %s\n", seconds, path.c_str());
      announced = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

struct Connection {
  json info;
  std::string source;
};

Result<Connection> find_connection(const Options& options) {
  const std::string variable = ddipp::environment("IPP_CONNECTION_INFO");
  if (!variable.empty()) {
    json info = json::parse(variable, nullptr, false);
    if (info.is_discarded()) return Failure{std::string("$IPP_CONNECTION_INFO is not valid JSON")};
    return Connection{std::move(info), "$IPP_CONNECTION_INFO"};
  }
  wait_for_file(options.connection_file, options.wait_for_file_s);
  auto info = ddipp::protocol::read_json_file(options.connection_file);
  if (!info) return Failure{info.error() + "; is a controller running with this profile?"};
  return Connection{std::move(*info), options.connection_file.string()};
}

Result<void*> load_host() {
  std::vector<std::string> places;
  if (const auto wish = ddipp::environment("DDIPP_ENGINE_HOST"); !wish.empty()) {
    places.push_back(wish);
  }
  const fs::path folder = fs::read_symlink("/proc/self/exe").parent_path();
  places.push_back((folder / "../lib/ddipp/libddipp_engine_host.so").lexically_normal());
  std::string why;
  for (const auto& place : places) {
    // Local: its libzmq must not mix with the one that pyzmq brings.
    if (void* library = ::dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    why = ::dlerror();
  }
  return Failure{"can't load the engine's host library: " + why};
}

json host_options(const Options& options, const Connection& connection) {
  json info = connection.info;
  if (!options.location.empty()) info["location"] = options.location;
  const auto milliseconds = [](double seconds) { return static_cast<int>(seconds * 1000); };
  return json{{"connection", info},
              {"connection_source", connection.source},
              {"uuid", ddipp::random_uuid()},
              {"id", options.id ? json(*options.id) : json(nullptr)},
              {"log_level", options.log_level},
              {"registration_timeout_ms", milliseconds(options.registration_timeout_s)},
              {"controller_patience_ms", milliseconds(options.controller_patience_s)},
              {"max_heartbeat_misses", options.max_heartbeat_misses},
              {"profile_dir", options.profile_dir.string()},
              {"startup_command", options.startup_command},
              {"startup_script", options.startup_script}};
}

}  // namespace

int main(int argc, char** argv) {
  const auto parsed = ddipp::engine::parse_options(argc, argv);
  if (parsed.exit_code) return *parsed.exit_code;
  const Options& options = parsed.options;

  const auto python = ddipp::engine::find_interpreter(options.python);
  if (!python) return complain(python.error());
  const auto interpreter = ddipp::engine::probe(*python);
  if (!interpreter) return complain(interpreter.error());
  const auto connection = find_connection(options);
  if (!connection) return complain(connection.error());
  const auto libpython = ddipp::engine::load_libpython(*interpreter);
  if (!libpython) return complain(libpython.error());
  const auto host = load_host();
  if (!host) return complain(host.error());

  using HostRun = int(const char*, int, char**);
  auto* run = reinterpret_cast<HostRun*>(::dlsym(*host, "ddipp_host_run"));
  if (run == nullptr) return complain("the engine's host library is of another version");

  std::vector<std::string> arguments{interpreter->executable, "-c", kBootstrap};
  arguments.insert(arguments.end(), options.python_arguments.begin(),
                   options.python_arguments.end());
  std::vector<char*> pointers;
  for (auto& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  return run(host_options(options, *connection).dump().c_str(), static_cast<int>(arguments.size()),
             pointers.data());
}
