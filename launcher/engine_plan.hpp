// Which commands start the engines of a cluster, for each way to launch them. Pure.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "protocol/result.hpp"

namespace ddipp::launcher {

enum class Way { local, ssh, mpi, slurm, sbatch };

// "local", "ssh", "mpi", "slurm", "sbatch", also with ipyparallel's names ("ddipp-mpi", "MPI", …).
Result<Way> way_from_name(const std::string& name);

// A host with the number of its engines, or their GPUs: "node1", "me@node1:4", "node1[0,1,3]".
struct Host {
  std::string name;
  unsigned engines = 1;
  std::string gpus;  // CUDA_VISIBLE_DEVICES there; "" leaves it alone
};

// Fails with one line on what is no list of hosts.
Result<std::vector<Host>> parse_hosts(const std::string& text);

struct EngineWish {
  Way way = Way::local;
  unsigned count = 1;
  std::vector<Host> hosts;               // of ssh
  std::vector<std::string> engine_args;  // for dipengine
  std::vector<std::string> way_args;     // for ssh, mpiexec, srun or sbatch
  std::filesystem::path engine_program;  // here
  std::string remote_program;            // on the hosts of ssh
  std::filesystem::path profile_dir;
  std::string cluster_id;
};

struct PlannedProcess {
  std::string name;  // of its log
  std::vector<std::string> command;
  bool needs_connection = false;  // on its standard input, which stays open as long as it may live
};

std::vector<PlannedProcess> plan_engines(const EngineWish& wish);

// The manifest of a controller and n engines for kubectl apply.
std::string kubernetes_manifest(const std::string& name, const std::string& image, unsigned engines,
                                unsigned gpus_per_engine);

}  // namespace ddipp::launcher
