// How many GPUs and cores this machine has.
#pragma once

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <thread>

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

}  // namespace ddipp::launcher
