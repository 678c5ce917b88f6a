// dipengine: finds the user's interpreter and the controller, and supervises the worker that turns
// into the interpreter.
#include <cstdio>
#include <exception>
#include <memory>

#include "common/profile.hpp"
#include "common/random_uuid.hpp"
#include "engine/connection.hpp"
#include "engine/options.hpp"
#include "engine/python_probe.hpp"
#include "engine/supervisor/notice.hpp"
#include "engine/supervisor/ssh_tunnel.hpp"
#include "engine/supervisor/supervisor.hpp"
#include "engine/warm_worker.hpp"
#include "engine/worker.hpp"

namespace {

using ddipp::Result;
using ddipp::engine::Options;
using ddipp::engine::WorkerSide;
using ddipp::engine::WorkerStart;
int complain(const std::string& line) {
  std::fprintf(stderr, "dipengine: %s\n", line.c_str());
  return 1;
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

std::unique_ptr<ddipp::engine::Nursery> make_nursery(
    const Options& options, const ddipp::engine::Interpreter& interpreter) {
  if (options.nursery.empty()) return nullptr;
  return std::make_unique<ddipp::engine::Nursery>(
      options.nursery,
      [&](int listener) { return ddipp::engine::enter_nursery(interpreter, listener); },
      [&](const WorkerStart& start, const WorkerSide& side) {
        return ddipp::engine::warm_worker_request(options, start, side);
      });
}

int supervise(const Options& options) {
  const auto python = ddipp::engine::find_interpreter(options.python);
  if (!python) return complain(python.error());
  const auto interpreter = ddipp::engine::probe(*python);
  if (!interpreter) return complain(interpreter.error());

  ddipp::engine::SshTunnel tunnel;
  ddipp::engine::SupervisorHooks hooks;
  hooks.prepare = [&](std::optional<int> id) { return prepare(options, tunnel, id); };
  hooks.work = [&](const WorkerStart& start, const WorkerSide& side) {
    return complain(ddipp::engine::enter_interpreter(*interpreter, options, start, side));
  };
  hooks.notify = ddipp::engine::send_notice;
  const auto id = options.use_mpi && !options.id ? mpi_rank() : options.id;
  const auto nursery = make_nursery(options, *interpreter);
  return ddipp::engine::Supervisor(std::move(hooks), options.restart, id, nursery.get()).run();
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
