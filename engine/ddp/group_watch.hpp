// The process groups of this rank, found through c10d's registry: aborting them from a thread
// without the GIL, and moving the backends of a new group into one that the user's objects hold.
#pragma once

#include <mutex>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <vector>

namespace ddipp::torch_plugin {

// Any thread. The groups are held weakly: Python decides how long they live.
class GroupWatch {
 public:
  // Forgets all groups; those added from now on belong to `generation`.
  void begin(int generation);
  int generation() const;

  // Watches the group of that name. Returns a number for adopt(), or -1 when there is none.
  int add(const std::string& name);

  // Starts an abort of every backend and returns: an abort can block, and the caller must not. Each
  // has a thread of its own, because communicators that share a GPU have to be aborted together
  // (pytorch issue 119797). Returns how many were started, 0 for another generation.
  int abort(int generation);

  // Aborts that have been started and have not returned.
  int aborting() const;

  // Gives the backends and the store of the group `name` to the one that add() returned `number`
  // for, which may be of an older generation. False when one is gone or they differ in rank or
  // size.
  bool adopt(int number, const std::string& name);

 private:
  using WeakGroup = c10::weak_intrusive_ptr<c10d::ProcessGroup>;

  mutable std::mutex mutex_;
  int generation_ = -1;
  std::vector<WeakGroup> groups_;  // by number; never shrinks, a pointer each
  std::size_t first_of_generation_ = 0;
};

}  // namespace ddipp::torch_plugin
