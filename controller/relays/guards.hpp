// What the controller remembers of messages that came by, one guard for each socket and one for
// what it signed itself. With a file it survives the controller: one that is started again with
// the same key refuses what its predecessor has seen.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "protocol/replay_guard.hpp"
#include "protocol/session.hpp"

namespace ddipp::controller {

enum class GuardOf : std::size_t {
  own,
  hub,
  output,
  mux_requests,
  mux_replies,
  control_requests,
  control_replies,
  task_requests,
  task_replies,
  broadcast_requests,
  broadcast_replies,
};
inline constexpr std::size_t kGuards = 11;

class Guards {
 public:
  // "" for no file. Throws std::runtime_error when the file can't be used; one of another key is
  // begun anew.
  Guards(const std::filesystem::path& file, const protocol::Session& session);

  protocol::ReplayGuard& operator[](GuardOf which) {
    return *guards_[static_cast<std::size_t>(which)];
  }

  // Greater than that of every earlier controller with this file, and growing with the time.
  std::uint64_t epoch() const { return epoch_; }

 private:
  struct Unmap {
    void operator()(std::uint64_t* memory) const;
  };

  std::unique_ptr<std::uint64_t, Unmap> memory_;
  std::array<std::unique_ptr<protocol::ReplayGuard>, kGuards> guards_;
  std::uint64_t epoch_ = 0;
};

}  // namespace ddipp::controller
