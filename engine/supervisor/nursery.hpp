// Workers from a warm process. The nursery has imported what ranks need and forks one on demand;
// engines of one host share it through a socket in a private folder. ddipp_engine/nursery.py is its
// other side.
//
//   supervisor ── asks ── nursery ── forks ── worker
//        └─ a connection for as long as it lives: the nursery ends with the last one, and kills a
//           worker whose supervisor is gone
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/supervisor/worker_source.hpp"
#include "protocol/net/unique_fd.hpp"
#include "protocol/packing.hpp"

namespace ddipp::engine {

// A request and the descriptors that go with it.
struct NurseryRequest {
  protocol::Json content;
  std::vector<int> descriptors;
};

class Nursery : public WorkerSource {
 public:
  // `run`: in a forked process, turns into the nursery that listens at this descriptor; returns one
  // line only when it can't. `request`: what is asked for.
  Nursery(std::filesystem::path socket, std::function<std::string(int listener)> run,
          std::function<NurseryRequest(const WorkerStart&, const WorkerSide&)> request);

  std::optional<pid_t> start(const WorkerStart& start, const WorkerSide& side) override;
  std::optional<WorkerEnd> ended() override;
  bool is_silent() const override { return worker_alone_; }

 private:
  struct Answer {
    protocol::Json content;
    net::UniqueFd process;
  };

  // Connects, and starts the nursery if there is none. Throws std::system_error.
  void reach();
  bool connect();
  void listen_and_run();
  std::optional<pid_t> ask(const WorkerStart& start, const WorkerSide& side);
  // Nothing when it is gone, late, or the supervisor is to end.
  std::optional<Answer> wait_for_answer();
  std::optional<Answer> receive();
  void announce_by_signal();
  void let_go();

  std::filesystem::path socket_;
  std::function<std::string(int)> run_;
  std::function<NurseryRequest(const WorkerStart&, const WorkerSide&)> request_;
  net::UniqueFd connection_;
  net::UniqueFd worker_;       // a pidfd
  bool worker_alone_ = false;  // the nursery died, the worker lives
};

}  // namespace ddipp::engine
