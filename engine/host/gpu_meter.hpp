// Memory and utilisation of a GPU from the driver's NVML, without CUDA: it answers while the rank's
// own use of the GPU is stuck.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ddipp::engine {

struct GpuFigures {
  std::uint64_t memory_used = 0;   // bytes
  std::uint64_t memory_total = 0;  // bytes
  unsigned utilisation = 0;        // percent of the last sample period that a kernel ran
};

// One thread. The driver's library is loaded when it is first asked.
class GpuMeter {
 public:
  GpuMeter() = default;
  ~GpuMeter();
  GpuMeter(const GpuMeter&) = delete;
  GpuMeter& operator=(const GpuMeter&) = delete;

  // `gpu`: its UUID ("GPU-…") or its index in NVML's order. Nothing without driver or GPU.
  std::optional<GpuFigures> read(const std::string& gpu);

 private:
  bool load();

  bool tried_ = false;
  void* library_ = nullptr;
};

}  // namespace ddipp::engine
