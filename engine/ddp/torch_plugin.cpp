// Aborts the process group of a rank from a thread that has no GIL.
//
// A collective of NCCL blocks in C++, where neither Python's signal handlers nor a thread that
// needs the GIL reach it. c10d's registry gives the same ProcessGroup that Python made; its abort()
// ends what waits. For Gloo abort() does nothing (the engine shuts its sockets down instead).
//
// Loaded after `import torch`, so that libtorch is the copy of the user's environment. Plain C at
// the border: no exception leaves it.
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/version.h>

#define DDIPP_API extern "C" __attribute__((visibility("default")))

namespace {

using WeakGroup = c10::weak_intrusive_ptr<c10d::ProcessGroup>;

// The group under watch. Weak: the plug-in must not keep a group alive that Python destroys.
struct Watched {
  std::mutex mutex;
  int generation = -1;
  WeakGroup group{c10::intrusive_ptr<c10d::ProcessGroup>()};
};

// Lives as long as the process, like the library.
Watched& watched() {
  static auto* const instance = new Watched();
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

// Watches the group of that name in c10d's registry. 0, or -1 when there is none.
DDIPP_API int ddipp_torch_watch(int generation, const char* group_name) {
  try {
    const auto group = c10d::resolve_process_group(group_name);
    const std::lock_guard lock(watched().mutex);
    watched().generation = generation;
    watched().group = WeakGroup(group);
    return 0;
  } catch (const std::exception&) {
    return -1;
  }
}

// Starts the abort of the watched group and returns: an abort can block (NCCL waits for its
// communicators), and the caller must not. 1 when one was started, 0 for another generation or a
// group that is gone.
DDIPP_API int ddipp_torch_abort(int generation) {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  {
    const std::lock_guard lock(watched().mutex);
    if (generation != watched().generation) return 0;
    group = watched().group.lock();
  }
  if (!group) return 0;
  try {
    std::thread([group = std::move(group)]() mutable {
      try {
        group->abort();
      } catch (const std::exception&) {  // the group is lost either way
      }
      group.reset();
    }).detach();
  } catch (const std::exception&) {
    return 0;
  }
  return 1;
}
