// What this rank's process groups are doing: the collectives of a generation, numbered as they
// start.
//
// Process groups announce each work to at::RecordFunction in the scope USER_SCOPE, under a name
// such as "gloo:all_reduce". Gloo ends the announcement when the work is done, NCCL when it is
// enqueued.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace ddipp::torch_plugin {

struct Collective {
  std::uint64_t number = 0;  // counts from 1 in each generation; 0 for send and recv
  std::string name;          // "all_reduce"
  std::int64_t elements = 0;
  std::chrono::steady_clock::time_point started;
  std::optional<std::chrono::steady_clock::time_point> ended;
};

// Any thread.
class CollectiveLog {
 public:
  using Handle = std::uint64_t;

  // A new generation begins: its first collective is number 1.
  void reset();

  Handle begin(std::string name, std::int64_t elements);
  void end(Handle handle);

  // The oldest that has not ended, else the last; nothing when there was none.
  std::optional<Collective> current() const;
  std::uint64_t count() const;

  // The collectives that have not ended now never will.
  void note_abort();
  // All up to this number have ended, or had when the abort was noted.
  std::uint64_t finished() const;

 private:
  std::uint64_t finished_now() const;

  mutable std::mutex mutex_;
  Handle next_handle_ = 1;
  std::uint64_t count_ = 0;
  std::optional<std::uint64_t> finished_at_abort_;
  std::map<Handle, Collective> unfinished_;
  std::optional<Collective> last_;
  Handle last_handle_ = 0;
};

// Watches all process groups of this process from now on. To be called once.
void start_recording(CollectiveLog& log);

}  // namespace ddipp::torch_plugin
