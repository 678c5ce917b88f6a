// dipengine: finds the user's interpreter and the controller, and supervises the worker that enters
// the interpreter.
#include <cstdio>
#include <exception>

#include "engine/connection.hpp"
#include "engine/libraries.hpp"
#include "engine/options.hpp"
#include "engine/python_probe.hpp"
#include "engine/supervisor/ssh_tunnel.hpp"
#include "engine/supervisor/supervisor.hpp"
#include "launcher/profile.hpp"
#include "launcher/random_uuid.hpp"

namespace {

using ddipp::Result;
using ddipp::engine::Options;
using ddipp::engine::WorkerSide;
using ddipp::engine::WorkerStart;
using ddipp::protocol::Json;

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

Result<WorkerStart> prepare(const Options& options, ddipp::engine::SshTunnel& tunnel,
                            std::optional<int> id) {
  auto connection = ddipp::engine::find_connection(options);
  if (!connection) return ddipp::Failure{connection.error()};
  if (!options.location.empty()) connection->info["location"] = options.location;
  const std::string server =
      options.ssh_server.empty() ? connection->info.value("ssh", "") : options.ssh_server;
  if (!server.empty()) {
    auto local = tunnel.open(connection->info, server, options.ssh_key);
    if (!local) return ddipp::Failure{local.error()};
    connection->info = std::move(*local);
    connection->source += " (through ssh to " + server + ")";
  }
  return WorkerStart{std::move(connection->info), connection->source, ddipp::random_uuid(), id};
}

// In the worker process.
int work(const Options& options, const ddipp::engine::Interpreter& interpreter,
         const WorkerStart& start, const WorkerSide& side) {
  const auto libpython = ddipp::engine::load_libpython(interpreter);
  if (!libpython) return complain(libpython.error());
  const auto host = ddipp::engine::load_library("libddipp_engine_host.so");
  if (!host) return complain(host.error());
  using HostRun = int(const char*, void*, int, char**);
  auto* run = reinterpret_cast<HostRun*>(ddipp::engine::find_function(*host, "ddipp_host_run"));
  if (run == nullptr) return complain("the engine's host library is of another version");

  std::vector<std::string> arguments{interpreter.executable, "-c", kBootstrap};
  arguments.insert(arguments.end(), options.python_arguments.begin(),
                   options.python_arguments.end());
  std::vector<char*> pointers;
  for (auto& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  return run(host_options(options, start, side).dump().c_str(), side.shared,
             static_cast<int>(arguments.size()), pointers.data());
}

// As mpiexec, Hydra and srun tell it to what they start; the id that ipengine asks for too.
std::optional<int> mpi_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"}) {
    const std::string rank = ddipp::environment(name);
    if (!rank.empty() && rank.find_first_not_of("0123456789") == std::string::npos) {
      return std::stoi(rank);
    }
  }
  return std::nullopt;
}

using SendNotice = bool(const char*);

// Loaded before the first fork, so that its memory is the worker's too.
Result<SendNotice*> load_notice() {
  const auto library = ddipp::engine::load_library("libddipp_engine_notice.so");
  if (!library) return ddipp::Failure{library.error()};
  auto* send =
      reinterpret_cast<SendNotice*>(ddipp::engine::find_function(*library, "ddipp_send_notice"));
  if (send == nullptr) return ddipp::Failure{std::string("dipengine's libraries do not match")};
  return send;
}

int supervise(const Options& options) {
  const auto python = ddipp::engine::find_interpreter(options.python);
  if (!python) return complain(python.error());
  const auto interpreter = ddipp::engine::probe(*python);
  if (!interpreter) return complain(interpreter.error());
  const auto send_notice = load_notice();
  if (!send_notice) return complain(send_notice.error());

  ddipp::engine::SshTunnel tunnel;
  ddipp::engine::SupervisorHooks hooks;
  hooks.prepare = [&](std::optional<int> id) { return prepare(options, tunnel, id); };
  hooks.work = [&](const WorkerStart& start, const WorkerSide& side) {
    return work(options, *interpreter, start, side);
  };
  hooks.notify = [&](const WorkerStart& start, int id, const std::string& why,
                     const std::string& details) {
    const Json notice{{"connection", start.connection},
                      {"uuid", start.uuid},
                      {"id", id},
                      {"reason", why},
                      {"last_output", details}};
    (*send_notice)(notice.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  };
  const auto id = options.use_mpi && !options.id ? mpi_rank() : options.id;
  return ddipp::engine::Supervisor(std::move(hooks), options.restart, id).run();
}

}  // namespace

int main(int argc, char** argv) {
  const auto parsed = ddipp::engine::parse_options(argc, argv);
  if (parsed.exit_code) return *parsed.exit_code;
  try {
    return supervise(parsed.options);
  } catch (const std::exception& error) {
    return complain(error.what());
  }
}
