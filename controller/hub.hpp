// The hub: registration, heartbeats, notifications and the queries of clients. Pure: events and
// times go in, actions come out.
//
// The life of an engine:
//   1. registration_request reserves an id and answers with the ports;
//   2. the engine's heart subscribes to pings and is pinged at once;
//   3. its first pong registers it and every client is told;
//   4. unregistration_request, shutdown_reply, a closed connection or too many missed pings remove
//      it, and every client is told again.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "controller/heart_monitor.hpp"
#include "controller/registry.hpp"
#include "protocol/content.hpp"
#include "protocol/session.hpp"

namespace ddipp::controller {

struct Reply {  // on the query socket
  std::string identity;
  std::string type;
  protocol::Json content;
  protocol::Json parent_header;
};

struct Notify {  // to every client
  std::string type;
  protocol::Json content;
};

struct Ping {
  std::string payload;
};

struct Stop {};

enum class LogLevel { debug, info, warning, error };

struct Log {
  LogLevel level;
  std::string text;
};

using Action = std::variant<Reply, Notify, Ping, Stop, Log>;

struct HubOptions {
  HeartMonitorOptions heart;
  std::chrono::milliseconds registration_timeout{30'000};
  protocol::Json engine_endpoints;  // connection_info of a registration_reply
};

class Hub {
 public:
  Hub(HubOptions options, TimePoint now);

  void on_query(const std::string& identity, const protocol::Message& message, TimePoint now);
  void on_bad_query(const std::string& identity, protocol::OpenError error);
  // Pings soon; engines that come together share the ping.
  void on_heart_subscribed(TimePoint now);
  // A subscription to an engine's presence topic began or ended. Its end means that the connection
  // is gone: the process died, or the network failed and the engine may come back within a grace
  // time. On the same machine only what is still on its way is waited for.
  void on_presence(const std::string& uuid, bool present, bool local, TimePoint now);
  void on_pong(const std::string& uuid);
  void on_engine_shutdown(const std::string& uuid);
  void on_stop_signal(const std::string& reason);

  void tick(TimePoint now);
  TimePoint next_deadline() const;

  // What has to be done now, in order; empties the list.
  std::vector<Action> take_actions() { return std::exchange(actions_, {}); }

  const Registry& registry() const { return registry_; }

 private:
  void reply(const std::string& identity, const protocol::Message& request, std::string type,
             protocol::Json content);
  void log(LogLevel level, std::string text) { actions_.emplace_back(Log{level, std::move(text)}); }

  void connection_request(const std::string& identity, const protocol::Message& message);
  void registration_request(const std::string& identity, const protocol::Message& message,
                            TimePoint now);
  void unregistration_request(const protocol::Message& message);
  void shutdown_request(const std::string& identity, const protocol::Message& message);
  void hub_error(const std::string& identity, const protocol::Message& message,
                 const std::string& name, const std::string& why);

  void remove_engine(int id, const std::string& why);
  void stop(const std::string& reason);

  HubOptions options_;
  Registry registry_;
  HeartMonitor heart_monitor_;
  static constexpr std::chrono::milliseconds kPresenceGrace{500};
  static constexpr std::chrono::milliseconds kLocalGrace{10};

  std::optional<TimePoint> early_ping_;
  std::map<std::string, TimePoint> absent_;  // uuid -> when it counts as dead
  std::vector<Action> actions_;
  bool stopping_ = false;
};

}  // namespace ddipp::controller
