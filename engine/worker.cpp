#include "engine/worker.hpp"

#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>
#include <vector>

namespace ddipp::engine {
namespace {

using protocol::Json;

// Run by the interpreter with the host library and two descriptors as its first arguments. Says in
// one line what its environment lacks. The first line is for lists of processes.
constexpr const char* kBootstrap = R"(# dipengine
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
def complain(text):
    sys.exit(f"dipengine: {text}")
def load_host(path, options, state):
    name = "_ddipp_engine"
    loader = ExtensionFileLoader(name, path)
    host = loader.create_module(ModuleSpec(name, loader, origin=path))
    loader.exec_module(host)
    sys.modules[name] = host
    host.start(int(options), int(state))
try:
    load_host(*sys.argv[1:4])
except (ImportError, OSError, RuntimeError) as error:
    complain(error)
del sys.argv[1:4]
try:
    from ddipp_engine.main import main
except ModuleNotFoundError as missing:
    package = {"ddipp_engine": "ddipp"}.get(missing.name, missing.name)
    complain(f"{sys.executable} has no module {missing.name!r}; install it with: "
             f"{sys.executable} -m pip install {package}")
main()
)";

std::system_error failure(const char* what) {
  return std::system_error(errno, std::generic_category(), what);
}

// Neither an argument nor a variable: those are for everybody to read, and the controller's key is
// among the options.
int as_file(const std::string& text) {
  const int fd = ::memfd_create("dipengine-options", 0);
  if (fd < 0) throw failure("memfd_create");
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(fd, text.data() + done, text.size() - done);
    if (written < 0) throw failure("write");
    done += static_cast<std::size_t>(written);
  }
  return fd;
}

void keep_open(int fd) {
  if (::fcntl(fd, F_SETFD, 0) != 0) throw failure("fcntl");
}

}  // namespace

Json host_options(const Options& options, const WorkerStart& start, const WorkerSide& side) {
  const auto milliseconds = [](double seconds) { return static_cast<int>(seconds * 1000); };
  return Json{{"connection", start.connection},
              {"connection_source", start.connection_source},
              {"uuid", start.uuid},
              {"id", start.id ? Json(*start.id) : Json(nullptr)},
              {"log_level", options.log_level},
              {"registration_timeout_ms", milliseconds(options.registration_timeout_s)},
              {"controller_patience_ms", milliseconds(options.controller_patience_s)},
              {"max_heartbeat_misses", options.max_heartbeat_misses},
              {"output_limit", static_cast<std::size_t>(options.output_limit_mib) * 1024 * 1024},
              {"use_mpi", options.use_mpi},
              {"stdout", {side.stdout_read, side.stdout_write}},
              {"stderr", {side.stderr_read, side.stderr_write}},
              {"fault_fd", side.fault_write},
              {"profile_dir", options.profile_dir.string()},
              {"startup_command", options.startup_command},
              {"startup_script", options.startup_script}};
}

std::string host_library() {
  const auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  return (folder / "../lib/ddipp/libddipp_engine_host.so").lexically_normal().string();
}

std::string replace_by(const Interpreter& interpreter, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), interpreter.executable);
  std::vector<char*> pointers;
  for (auto& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  ::execv(interpreter.executable.c_str(), pointers.data());
  return "can't run " + interpreter.executable + ": " + std::generic_category().message(errno);
}

std::string enter_interpreter(const Interpreter& interpreter, const Options& options,
                              const WorkerStart& start, const WorkerSide& side) {
  for (const int fd : {side.state, side.stdout_read, side.stdout_write, side.stderr_read,
                       side.stderr_write, side.fault_write}) {
    keep_open(fd);
  }
  const int options_fd = as_file(host_options(options, start, side).dump());
  std::vector<std::string> arguments{"-c", kBootstrap, host_library(), std::to_string(options_fd),
                                     std::to_string(side.state)};
  arguments.insert(arguments.end(), options.python_arguments.begin(),
                   options.python_arguments.end());
  return replace_by(interpreter, std::move(arguments));
}

}  // namespace ddipp::engine
