#include "engine/host/gpu_meter.hpp"

#include <cstdlib>
#include <dlfcn.h>

namespace ddipp::engine {
namespace {

// The few declarations of nvml.h that are needed; its ABI is stable (NVML API reference).
using Device = void*;
struct Memory {
  unsigned long long total, free, used;
};
struct Utilization {
  unsigned gpu, memory;
};
constexpr int kSuccess = 0;

template <class Function>
Function* find(void* library, const char* name) {
  return reinterpret_cast<Function*>(::dlsym(library, name));
}

}  // namespace

bool GpuMeter::load() {
  if (tried_) return library_ != nullptr;
  tried_ = true;
  void* library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return false;
  auto* const initialize = find<int()>(library, "nvmlInit_v2");
  if (initialize == nullptr || initialize() != kSuccess) {
    ::dlclose(library);
    return false;
  }
  library_ = library;
  return true;
}

GpuMeter::~GpuMeter() {
  if (library_ == nullptr) return;
  if (auto* const shutdown = find<int()>(library_, "nvmlShutdown")) shutdown();
  ::dlclose(library_);
}

std::optional<GpuFigures> GpuMeter::read(const std::string& gpu) {
  if (gpu.empty() || !load()) return std::nullopt;
  auto* const by_uuid = find<int(const char*, Device*)>(library_, "nvmlDeviceGetHandleByUUID");
  auto* const by_index = find<int(unsigned, Device*)>(library_, "nvmlDeviceGetHandleByIndex_v2");
  auto* const memory_info = find<int(Device, Memory*)>(library_, "nvmlDeviceGetMemoryInfo");
  auto* const utilization =
      find<int(Device, Utilization*)>(library_, "nvmlDeviceGetUtilizationRates");
  if (by_uuid == nullptr || by_index == nullptr || memory_info == nullptr) return std::nullopt;
  Device device = nullptr;
  const bool is_index = gpu.find_first_not_of("0123456789") == std::string::npos;
  const int found =
      is_index ? by_index(static_cast<unsigned>(std::strtoul(gpu.c_str(), nullptr, 10)), &device)
               : by_uuid(gpu.c_str(), &device);
  Memory memory{};
  if (found != kSuccess || memory_info(device, &memory) != kSuccess) return std::nullopt;
  Utilization rates{};
  if (utilization != nullptr) utilization(device, &rates);  // not every GPU has it
  return GpuFigures{memory.used, memory.total, rates.gpu};
}

}  // namespace ddipp::engine
