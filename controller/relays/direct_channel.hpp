// A channel on which the client names the engine: mux and control. Relays frame by frame without
// copying and notes every request in a ledger until its reply comes by.
#pragma once

#include <functional>
#include <string>

#include "controller/endpoints.hpp"
#include "controller/relays/channel_services.hpp"
#include "controller/relays/engine_outlet.hpp"
#include "protocol/net/multipart.hpp"

namespace ddipp::controller {

class DirectChannel {
 public:
  // What is different between mux and control.
  struct Kind {
    std::string name;  // for the log
    protocol::RelayChannel relay;
    GuardOf requests, replies;
  };

  DirectChannel(Kind kind, Channel& channel, const ChannelServices& services, Ledger& ledger)
      : kind_(std::move(kind)),
        channel_(channel),
        services_(services),
        ledger_(ledger),
        outlet_(channel.back, services, kind_.relay) {}

  // Is told the engine and the type of every reply.
  using Observer =
      std::function<void(const std::string&, const std::string&, net::Clock::time_point)>;
  void on_answered(Observer observer) { observer_ = std::move(observer); }

  void on_request(net::Multipart& message, net::Clock::time_point now);
  void on_reply(net::Multipart& message, net::Clock::time_point now);

  // A message of the controller's own: [engine's uuid, sender, delimiter, ...].
  void send(const std::string& engine, net::Multipart message, net::Clock::time_point now) {
    outlet_.send(engine, std::move(message), now);
  }

  // Answers what the engine has not answered.
  void remove_engine(const Engine& engine, const std::string& why);

  // Ends a request that this channel carries with an error.
  void fail(const Record& record, const std::string& name, const std::string& why,
            const protocol::Json& ours = nullptr);

  void tick(net::Clock::time_point now);
  std::optional<net::Clock::time_point> next_deadline() const { return outlet_.next_deadline(); }

 private:
  Kind kind_;
  Channel& channel_;
  ChannelServices services_;
  Ledger& ledger_;
  EngineOutlet outlet_;
  Observer observer_;
};

}  // namespace ddipp::controller
