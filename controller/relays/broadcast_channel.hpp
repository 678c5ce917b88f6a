// Broadcast views: one request of a client becomes one for each of its engines, and the replies go
// back one by one or, for a coalescing view, joined into one. Buffers are shared, not copied.
#pragma once

#include <map>
#include <string>
#include <unordered_map>

#include "controller/endpoints.hpp"
#include "controller/relays/channel_services.hpp"
#include "controller/relays/engine_outlet.hpp"
#include "protocol/net/multipart.hpp"

namespace ddipp::controller {

class BroadcastChannel {
 public:
  BroadcastChannel(Channel& channel, const ChannelServices& services, Ledger& ledger)
      : channel_(channel),
        services_(services),
        ledger_(ledger),
        outlet_(channel.back, services, protocol::RelayChannel::broadcast) {}

  void on_request(net::Multipart& message, net::Clock::time_point now);
  void on_reply(net::Multipart& message, net::Clock::time_point now);

  // What the engine owes becomes an error; a joined reply waits for the others only.
  void remove_engine(const Engine& engine, const std::string& why);
  void fail(const Record& record, const std::string& name, const std::string& why,
            const protocol::Json& ours = nullptr);

  void tick(net::Clock::time_point now);
  std::optional<net::Clock::time_point> next_deadline() const { return outlet_.next_deadline(); }

 private:
  // A coalescing request on its way.
  struct Pending {
    RecordPtr record;                               // of the whole
    protocol::Json targets;                         // [[uuid, id], ...] as the client gave them
    std::map<std::string, net::Multipart> buffers;  // of each reply, by engine
    net::Multipart reply;  // the frames that stand for all: an error if there was one
    bool failed = false;
  };

  void send(const RecordPtr& child, net::Clock::time_point now,
            std::optional<std::string>& buffers_code);
  // `message` is [engine, client, delimiter, ...].
  void coalesce(net::Multipart& message, const protocol::Verified& envelope,
                const protocol::Json& metadata);
  void send_joined(Pending& pending);

  Channel& channel_;
  ChannelServices services_;
  Ledger& ledger_;
  EngineOutlet outlet_;
  std::unordered_map<std::string, Pending> pending_;  // by the client's msg_id
};

}  // namespace ddipp::controller
