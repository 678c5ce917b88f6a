// The sockets' side of the task scheduler: reads what it has to know from requests and results, and
// relays. The frames of unfinished tasks are kept so that a task can be sent again.
#pragma once

#include <string>
#include <unordered_map>

#include "controller/core/task_scheduler.hpp"
#include "controller/endpoints.hpp"
#include "controller/relays/channel_services.hpp"
#include "controller/relays/engine_outlet.hpp"
#include "protocol/net/multipart.hpp"

namespace ddipp::controller {

class TaskChannel {
 public:
  TaskChannel(Channel& channel, const ChannelServices& services, Ledger& ledger,
              TaskSchedulerOptions options)
      : channel_(channel),
        services_(services),
        ledger_(ledger),
        scheduler_(std::move(options)),
        outlet_(channel.back, services, protocol::RelayChannel::task) {}

  void on_request(net::Multipart& message, net::Clock::time_point now);
  void on_reply(net::Multipart& message, net::Clock::time_point now);
  // A task that comes from the store.
  void resubmit(const RecordPtr& record, net::Clock::time_point now);

  void add_engine(const std::string& uuid);
  void remove_engine(const Engine& engine, const std::string& why);
  // It is about to end: gets no more tasks.
  void retire_engine(const std::string& uuid) { scheduler_.retire_engine(uuid); }
  void fail(const Record& record, const std::string& name, const std::string& why);

  void tick(net::Clock::time_point now);
  std::optional<net::Clock::time_point> next_deadline() const;

 private:
  void submit(const RecordPtr& record, net::Multipart frames, net::Clock::time_point now);
  void perform(const Assign& action);
  void perform(const Fail& action);
  void run_actions();

  Channel& channel_;
  ChannelServices services_;
  Ledger& ledger_;
  TaskScheduler scheduler_;
  EngineOutlet outlet_;
  struct Stored {
    net::Multipart frames;                    // [client, delimiter, ...]
    std::optional<std::string> buffers_code;  // once it was needed
  };
  std::unordered_map<std::string, Stored> stored_;  // by msg_id
};

}  // namespace ddipp::controller
