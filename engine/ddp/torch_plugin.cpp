// libddipp_torch: what the engine does beside torch.distributed without the GIL.
//
// A collective of NCCL blocks in C++, where neither Python's signal handlers nor a thread that
// needs the GIL reach it. For Gloo abort() does nothing; the engine ends its waits
// (group_guard.hpp).
//
// Loaded after `import torch`, so that libtorch is the copy of the user's environment. Plain C at
// the border: no exception leaves it.
#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <torch/version.h>

#include "engine/ddp/collective_log.hpp"
#include "engine/ddp/group_watch.hpp"
#include "engine/ddp/report.h"

#define DDIPP_API extern "C" __attribute__((visibility("default")))

namespace {

using ddipp::torch_plugin::CollectiveLog;
using ddipp::torch_plugin::GroupWatch;

// Both live as long as the process, like the library.
GroupWatch& groups() {
  static auto* const instance = new GroupWatch();
  return *instance;
}

CollectiveLog& collectives() {
  static auto* const instance = [] {
    auto* log = new CollectiveLog();
    ddipp::torch_plugin::start_recording(*log);
    return log;
  }();
  return *instance;
}

}  // namespace

// The version of torch this was built against, such as "2.9.1". Another torch has another ABI.
DDIPP_API const char* ddipp_torch_version() {
  static const std::string version = std::to_string(TORCH_VERSION_MAJOR) + "." +
                                     std::to_string(TORCH_VERSION_MINOR) + "." +
                                     std::to_string(TORCH_VERSION_PATCH);
  return version.c_str();
}

// A generation of groups begins.
DDIPP_API void ddipp_torch_begin(int generation) {
  try {
    groups().begin(generation);
  } catch (const std::exception&) {  // out of memory: nothing is watched
  }
}

// The next collective is number 1.
DDIPP_API void ddipp_torch_count_from_here() {
  try {
    collectives().reset();
  } catch (const std::exception&) {  // the numbers go on
  }
}

// Watches the group of that name in c10d's registry: a number for ddipp_torch_adopt, -1 for none.
DDIPP_API int ddipp_torch_add(const char* group_name) {
  try {
    return groups().add(group_name);
  } catch (const std::exception&) {
    return -1;
  }
}

// See GroupWatch::adopt; 1 when it was done.
DDIPP_API int ddipp_torch_adopt(int number, const char* group_name) {
  try {
    return groups().adopt(number, group_name) ? 1 : 0;
  } catch (const std::exception&) {
    return 0;
  }
}

// Starts the abort of all groups of the generation and returns; how many.
DDIPP_API int ddipp_torch_abort(int generation) {
  try {
    if (generation == groups().generation()) collectives().note_abort();
    return groups().abort(generation);
  } catch (const std::exception&) {
    return 0;
  }
}

// Fills the report; see report.h.
DDIPP_API void ddipp_torch_report(DdippTorchReport* report) {
  std::memset(report, 0, sizeof *report);
  try {
    report->collectives = collectives().count();
    report->finished = collectives().finished();
    report->aborting = groups().aborting();
    const auto current = collectives().current();
    if (!current) return;
    const auto age = std::chrono::steady_clock::now() - current->ended.value_or(current->started);
    std::strncpy(report->name, current->name.c_str(), sizeof report->name - 1);
    report->number = current->number;
    report->elements = current->elements;
    report->waiting = current->ended ? 0 : 1;
    report->age_seconds = std::chrono::duration<double>(age).count();
  } catch (const std::exception&) {  // what is filled is right
  }
}
