// The sockets' side of the task scheduler: reads what it has to know from requests and results,
// keeps the frames of unfinished tasks, and relays.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>

#include <spdlog/logger.h>

#include "controller/endpoints.hpp"
#include "controller/held_messages.hpp"
#include "controller/task_scheduler.hpp"
#include "protocol/net/multipart.hpp"
#include "protocol/net/reactor.hpp"
#include "protocol/session.hpp"

namespace ddipp::controller {

class TaskChannel {
 public:
  TaskChannel(Channel& channel, protocol::Session& session, spdlog::logger& log,
              TaskSchedulerOptions options)
      : channel_(channel), session_(session), log_(log), scheduler_(std::move(options)) {}

  void on_submission(net::Multipart& message, net::Clock::time_point now);
  void on_result(net::Multipart& message);
  void add_engine(const std::string& uuid);
  void remove_engine(const std::string& uuid);

  void tick(net::Clock::time_point now);
  std::optional<net::Clock::time_point> next_deadline() const;

 private:
  // The request as it came, [client, delimiter, ...]; frames are shared with what was sent.
  struct Stored {
    net::Multipart frames;
    std::string reply_type;
    protocol::Json header;
  };

  void perform(const Assign& action);
  void perform(const Fail& action);
  void run_actions();

  Channel& channel_;
  protocol::Session& session_;
  spdlog::logger& log_;
  TaskScheduler scheduler_;
  std::unordered_map<std::string, Stored> stored_;
  HeldMessages held_;  // for engines whose connection is not up yet
};

}  // namespace ddipp::controller
