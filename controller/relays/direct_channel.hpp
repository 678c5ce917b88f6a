// A channel on which the client names the engine: mux and control. Relays frame by frame without
// copying and notes every request in a ledger until its reply comes by.
#pragma once

#include <string>

#include "controller/endpoints.hpp"
#include "controller/relays/channel_services.hpp"
#include "controller/relays/engine_outlet.hpp"
#include "protocol/net/multipart.hpp"

namespace ddipp::controller {

class DirectChannel {
 public:
  // `name` is for the log.
  DirectChannel(std::string name, Channel& channel, const ChannelServices& services, Ledger& ledger)
      : name_(std::move(name)),
        channel_(channel),
        services_(services),
        ledger_(ledger),
        outlet_(channel.back) {}

  void on_request(net::Multipart& message, net::Clock::time_point now);
  void on_reply(net::Multipart& message, net::Clock::time_point now);

  // Answers what the engine has not answered.
  void remove_engine(const Engine& engine, const std::string& why);

  // Ends a request that this channel carries with an error.
  void fail(const Record& record, const std::string& name, const std::string& why,
            const protocol::Json& ours = nullptr);

  void tick(net::Clock::time_point now);
  std::optional<net::Clock::time_point> next_deadline() const { return outlet_.next_deadline(); }

 private:
  std::string name_;
  Channel& channel_;
  ChannelServices services_;
  Ledger& ledger_;
  EngineOutlet outlet_;
};

}  // namespace ddipp::controller
