#include "engine/ddp/group_watch.hpp"

#include <atomic>
#include <exception>
#include <thread>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>

namespace ddipp::torch_plugin {
namespace {

using Group = c10::intrusive_ptr<c10d::ProcessGroup>;
using Backend = c10::intrusive_ptr<c10d::Backend>;

std::atomic<int> running_aborts{0};

// The destructor of a NCCL backend waits for its watchdog, which after an error sleeps for a minute
// so that others can write dumps (TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC). The main thread must not.
void let_go(std::vector<Backend> backends) {
  std::erase_if(backends, [](const Backend& one) { return one->getBackendName() != "nccl"; });
  if (backends.empty()) return;
  try {
    std::thread([backends = std::move(backends)]() mutable { backends.clear(); }).detach();
  } catch (const std::exception&) {  // no more threads: it takes the time that it takes
  }
}

// c10d has no call for this: a group's backends are set once. The members are protected, so a
// derived class may name them.
struct Opened : c10d::ProcessGroup {
  static void collect_backends(const c10d::ProcessGroup& group, std::vector<Backend>& target) {
    for (const auto& [type, backend] : group.*(&Opened::backendTypeToBackend_)) {
      if (backend) target.push_back(backend);
    }
  }

  static void move_backends(c10d::ProcessGroup& from, c10d::ProcessGroup& to) {
    constexpr auto by_device = &Opened::deviceTypeToBackend_;
    constexpr auto by_type = &Opened::backendTypeToBackend_;
    constexpr auto store = &Opened::store_;
    std::vector<Backend> replaced;
    collect_backends(to, replaced);
    to.*by_device = from.*by_device;
    to.*by_type = from.*by_type;
    to.*store = from.*store;
    let_go(std::move(replaced));
  }
};

// Every backend has abort() since torch 2.7; before, the engine falls back to Python's.
template <class AnyBackend>
void abort_backend(AnyBackend& backend) {
  if constexpr (requires { backend.abort(); }) backend.abort();
}

Group find(const std::string& name) {
  try {
    return c10d::resolve_process_group(name);
  } catch (const std::exception&) {
    return {};
  }
}

}  // namespace

void GroupWatch::begin(int generation) {
  const std::lock_guard lock(mutex_);
  generation_ = generation;
  first_of_generation_ = groups_.size();
}

int GroupWatch::generation() const {
  const std::lock_guard lock(mutex_);
  return generation_;
}

int GroupWatch::add(const std::string& name) {
  const Group group = find(name);
  if (!group) return -1;
  const std::lock_guard lock(mutex_);
  groups_.emplace_back(group);
  return static_cast<int>(groups_.size()) - 1;
}

int GroupWatch::abort(int generation) {
  std::vector<Backend> living;
  {
    const std::lock_guard lock(mutex_);
    if (generation != generation_) return 0;
    for (std::size_t i = first_of_generation_; i < groups_.size(); ++i) {
      if (const Group group = groups_[i].lock()) Opened::collect_backends(*group, living);
    }
  }
  int started = 0;
  for (auto& backend : living) {
    try {
      ++running_aborts;
      std::thread([backend = std::move(backend)]() mutable {
        try {
          abort_backend(*backend);
        } catch (const std::exception&) {  // the group is lost either way
        }
        backend.reset();
        --running_aborts;
      }).detach();
      ++started;
    } catch (const std::exception&) {
      --running_aborts;
    }
  }
  return started;
}

int GroupWatch::aborting() const { return running_aborts; }

bool GroupWatch::adopt(int number, const std::string& name) {
  const Group fresh = find(name);
  const std::lock_guard lock(mutex_);
  if (number < 0 || static_cast<std::size_t>(number) >= groups_.size()) return false;
  const Group old = groups_[static_cast<std::size_t>(number)].lock();
  if (!fresh || !old || fresh == old) return false;
  if (fresh->getRank() != old->getRank() || fresh->getSize() != old->getSize() ||
      fresh->getBackendType() != old->getBackendType()) {
    return false;
  }
  Opened::move_backends(*fresh, *old);
  groups_.emplace_back(old);  // it is of this generation now
  return true;
}

}  // namespace ddipp::torch_plugin
