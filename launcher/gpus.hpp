// How many GPUs and cores this machine has.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <thread>

#include "common/profile.hpp"

namespace ddipp::launcher {

// The driver lists NVIDIA's GPUs; 0 without a driver.
inline unsigned gpu_count() {
  std::error_code error;
  const std::filesystem::directory_iterator gpus("/proc/driver/nvidia/gpus", error);
  return error ? 0 : static_cast<unsigned>(std::distance(begin(gpus), end(gpus)));
}

inline unsigned default_engine_count() {
  if (const unsigned gpus = gpu_count(); gpus > 0) return gpus;
  return std::max(1U, std::thread::hardware_concurrency());
}

// Of the allocation that this process is in: its GPUs, else its tasks, else one.
inline unsigned slurm_engine_count() {
  const auto number = [](const char* name) {
    return static_cast<unsigned>(std::strtoul(environment(name).c_str(), nullptr, 10));
  };
  const unsigned nodes = std::max(1U, number("SLURM_JOB_NUM_NODES"));
  if (const unsigned gpus = number("SLURM_GPUS_ON_NODE"); gpus > 0) return nodes * gpus;
  return std::max(1U, number("SLURM_NTASKS"));
}

}  // namespace ddipp::launcher
