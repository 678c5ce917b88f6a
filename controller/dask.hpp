// Runs a dask.distributed scheduler as a child process, for Client.become_dask(). The scheduler is
// the real one; it ends with this controller, whatever ends it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/process.hpp>

#include "controller/core/hub.hpp"
#include "protocol/net/reactor.hpp"

namespace ddipp::controller {

class DaskScheduler {
 public:
  using Answer = std::function<void(const Dask& request, protocol::Json content)>;

  DaskScheduler(net::Reactor& reactor, Answer answer)
      : reactor_(reactor), answer_(std::move(answer)) {}
  ~DaskScheduler() { stop(); }
  DaskScheduler(const DaskScheduler&) = delete;
  DaskScheduler& operator=(const DaskScheduler&) = delete;

  // Answers when the scheduler listens, or can't; at once when it listens already.
  void start(const Dask& request);
  void stop();

 private:
  struct Child {
    boost::process::opstream input;  // its end tells the scheduler to close
    boost::process::pipe output;
    boost::process::child process;
  };

  void on_output();
  void answer_all(const protocol::Json& content);

  net::Reactor& reactor_;
  Answer answer_;
  std::unique_ptr<Child> child_;
  std::string text_;        // of the child, until its first whole line
  protocol::Json address_;  // null until it listens
  std::vector<Dask> unanswered_;
};

}  // namespace ddipp::controller
