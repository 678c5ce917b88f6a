// The hub: registration, heartbeats, notifications and the queries of clients. Pure: events and
// times go in, actions come out.
//
// The life of an engine:
//   1. registration_request reserves an id and answers with the ports;
//   2. the engine's heart subscribes to pings and is pinged at once;
//   3. its first pong registers it and every client is told;
//   4. unregistration_request, shutdown_reply, a closed connection or too many missed pings remove
//      it, and every client is told again;
//   5. one that was only cut off and is heard again comes back under its old id.
#pragma once

#include <deque>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "controller/core/abandoned_cell.hpp"
#include "controller/core/heart_monitor.hpp"
#include "controller/core/hub_queries.hpp"
#include "controller/core/linger.hpp"
#include "controller/core/registry.hpp"
#include "protocol/content.hpp"
#include "protocol/session.hpp"

namespace ddipp::controller {

struct Reply {  // on the query socket
  std::string identity;
  std::string type;
  protocol::Json content;
  protocol::Json parent_header;
  std::vector<protocol::Blob> buffers;
};

struct Notify {  // to every client
  std::string type;
  protocol::Json content;
  protocol::Json parent_header = protocol::Json::object();
};

struct Ping {
  std::string payload;
};

// Every outstanding request is to be answered with an error that says why.
struct AnswerAll {
  std::string why;
};

struct Stop {};

// These come before the notification of the clients.
struct EngineJoined {
  Engine engine;
};

// It was told to end and is about to: nothing more is to be given to it.
struct EngineRetired {
  std::string uuid;
};

struct EngineLost {
  Engine engine;
  std::string why;
};

// Every registered engine is to end.
struct ShutDownEngines {};

// What these engines run is to be interrupted, and taken out of collectives.
struct EndCells {
  std::set<std::string> engines;  // uuids
};

struct Resubmit {
  RecordPtr task;
};

// A dask scheduler is to be started, or stopped, and the client answered then.
struct Dask {
  bool start = false;
  std::string identity;
  protocol::Json arguments;  // of the scheduler, by name
  protocol::Json parent_header;
};

enum class LogLevel { debug, info, warning, error };

struct Log {
  LogLevel level;
  std::string text;
};

using Action = std::variant<Reply, Notify, Ping, AnswerAll, Stop, EngineJoined, EngineRetired,
                            EngineLost, ShutDownEngines, EndCells, Resubmit, Dask, Log>;

struct HubOptions {
  HeartMonitorOptions heart;
  std::chrono::milliseconds registration_timeout{30'000};
  std::chrono::seconds linger{0};   // without clients and work; 0: for ever
  protocol::Json engine_endpoints;  // connection_info of a registration_reply
  // A fresh id and date for a message of that type.
  std::function<protocol::Header(const std::string&)> make_header;
  // The route of an engine of ours; without it, or without a key, engines connect by their uuids.
  std::function<std::string(const std::string& uuid)> make_route = {};
};

class Hub {
 public:
  Hub(HubOptions options, Ledger& ledger, Store& store, TimePoint now);

  // Engines of an earlier controller that are expected to go on under their ids; clients are not
  // told. Those that don't answer pings are removed in the usual way.
  void restore(const std::vector<Engine>& engines, int next_id);

  void on_query(const std::string& identity, const protocol::Message& message, TimePoint now);
  // The caller logs it.
  void on_bad_query(const std::string& identity, protocol::OpenError error);
  // Pings soon; engines that come together share the ping.
  void on_heart_subscribed(TimePoint now);
  // A subscription to an engine's presence topic began or ended. Its end means that the connection
  // is gone: the process died, or the network failed and the engine may come back within a grace
  // time. On the same machine only what is still on its way is waited for.
  void on_presence(const std::string& uuid, bool present, bool local, TimePoint now);
  void on_pong(const std::string& uuid, std::string_view payload, TimePoint now);
  // A client subscribes to notifications after it has read its connection_reply. What happened in
  // between is told once more; for the other clients it changes nothing.
  void on_client_subscribed(TimePoint now);
  // The first client is there, or the last one is gone.
  void on_clients(bool present, TimePoint now, bool proven = true);
  // A request of the ledger got its result.
  void on_finished(const Record& record, TimePoint now);
  // It has answered a shutdown_request: it ends as soon as what it runs lets it.
  void on_shutdown_accepted(const std::string& uuid);
  // Its last word.
  void on_engine_shutdown(const std::string& uuid, TimePoint now);
  void on_stop_signal(const std::string& reason, TimePoint now);

  void tick(TimePoint now);
  TimePoint next_deadline() const;

  // What has to be done now, in order; empties the list.
  std::vector<Action> take_actions() { return std::exchange(actions_, {}); }

  const Registry& registry() const { return registry_; }

  // Who says to be this engine has to show its route.
  bool has_route(const std::string& uuid) const {
    const auto absentee = absentees_.find(uuid);
    return registry_.has_route(uuid) ||
           (absentee != absentees_.end() && !absentee->second.engine.route.empty());
  }

 private:
  void reply(const std::string& identity, const protocol::Message& request, std::string type,
             protocol::Json content);
  void log(LogLevel level, std::string text) { actions_.emplace_back(Log{level, std::move(text)}); }

  void connection_request(const std::string& identity, const protocol::Message& message);
  void registration_request(const std::string& identity, const protocol::Message& message,
                            TimePoint now);
  void unregistration_request(const protocol::Message& message, TimePoint now);
  void shutdown_request(const std::string& identity, const protocol::Message& message,
                        TimePoint now);
  void hub_error(const std::string& identity, const protocol::Message& message,
                 const std::string& name, const std::string& why);

  void make_room(int id, TimePoint now);
  // `may_return`: it may be alive behind a broken network.
  // `why`: one line; what follows are details for the traceback.
  void remove_engine(int id, const std::string& why, bool may_return, TimePoint now);
  void on_death_report(const protocol::UnregistrationRequest& report, TimePoint now);
  void expect_back(const Engine& engine);
  void take_back(const std::string& uuid, TimePoint now);
  void announce_joined(const Engine& engine);
  void announce_left(const Engine& engine);
  void remember_change(const Engine& engine, TimePoint now);
  void forget_old_replies(TimePoint now);
  void join(const Engine& engine, TimePoint now);
  void stop(const std::string& reason, TimePoint now, protocol::Json asked_by);
  void mind_solitude(TimePoint now);
  void mind_abandoned_cell(TimePoint now);

  HubOptions options_;
  Registry registry_;
  HeartMonitor heart_monitor_;
  Linger linger_;
  AbandonedCell abandoned_cell_;
  static constexpr std::chrono::milliseconds kPresenceGrace{500};
  // On one machine an end is the end of the process, and its supervisor is about to say why.
  static constexpr std::chrono::milliseconds kLocalGrace{250};
  static constexpr std::chrono::milliseconds kReportGrace{1};
  static constexpr std::chrono::milliseconds kFarewellGrace{50};
  // Clients take a stranded request's own error for less than the reply that says why, so that has
  // to be there first; the two come through different sockets.
  static constexpr std::chrono::milliseconds kNoticeDelay{15};
  static constexpr std::chrono::seconds kConnecting{10};
  static constexpr std::chrono::milliseconds kStopGrace{100};
  static constexpr std::chrono::seconds kEnginesEnd{5};  // have so long to end

  // An engine that was cut off: it is back when it answers a later ping or subscribes again.
  struct Absentee {
    Engine engine;
    unsigned long last_ping = 0;
  };
  static constexpr std::size_t kAbsentees = 4096;

  const Ledger& ledger_;
  HubQueries queries_;
  std::map<std::string, Absentee> absentees_;  // by uuid
  std::optional<TimePoint> early_ping_;
  std::deque<TimePoint> connection_replies_;  // of the last kConnecting
  struct Change {
    TimePoint time;
    Engine engine;
  };
  std::deque<Change> changes_;  // who joined or left within kConnecting
  std::deque<Change> notices_;  // unregistrations that clients are told of soon
  struct Leaving {
    TimePoint gone_at;  // what it still had to say has arrived by then
    std::string why;
    bool may_return = false;
  };
  void leave(const std::string& uuid, Leaving leaving);
  std::map<std::string, Leaving> leaving_;  // by uuid
  std::set<std::string> told_to_end_;       // uuids
  std::vector<Action> actions_;
  std::optional<TimePoint> stop_at_;
  protocol::Json stop_asked_by_;             // header of a client's request, null for none
  std::optional<TimePoint> engines_end_at_;  // they were told to end
};

}  // namespace ddipp::controller
