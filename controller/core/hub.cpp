#include "controller/core/hub.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include "controller/core/routing.hpp"
#include "protocol/python_text.hpp"
#include "protocol/relay_tag.hpp"

namespace ddipp::controller {

using protocol::error_content;
using protocol::Json;
using protocol::Message;

Hub::Hub(HubOptions options, Ledger& ledger, Store& store, TimePoint now)
    : options_(std::move(options)),
      heart_monitor_(options_.heart, now),
      linger_(options_.linger, now),
      ledger_(ledger),
      queries_(registry_, ledger, store, options_.make_header) {}

void Hub::restore(const std::vector<Engine>& engines, int next_id) {
  registry_.reserve_ids(next_id);
  for (const Engine& engine : engines) {
    if (!registry_.restore(engine)) continue;
    heart_monitor_.watch(engine.uuid);
    log(LogLevel::info, "engine " + std::to_string(engine.id) + " is expected back");
    actions_.emplace_back(EngineJoined{engine});
  }
}

void Hub::reply(const std::string& identity, const Message& request, std::string type,
                Json content) {
  actions_.emplace_back(Reply{identity, std::move(type), std::move(content), request.header, {}});
}

void Hub::on_query(const std::string& identity, const Message& message, TimePoint now) {
  const std::string& type = message.header.msg_type;
  if (type == protocol::ConnectionRequest::type) {
    forget_old_replies(now);
    connection_replies_.push_back(now);
    return connection_request(identity, message);
  }
  if (type == protocol::RegistrationRequest::type) {
    return registration_request(identity, message, now);
  }
  if (type == protocol::UnregistrationRequest::type) return unregistration_request(message, now);
  if (type == protocol::ShutdownRequest::type) {
    return shutdown_request(identity, message, now);
  }
  if (type == "become_dask_request" || type == "stop_distributed_request") {
    const Json arguments = protocol::map_in(message.content, "scheduler_args");
    actions_.emplace_back(Dask{type == "become_dask_request", identity, arguments, message.header});
    return;
  }
  if (auto answer = queries_.answer(message)) {
    if (protocol::text_in(answer->content, "status") != "ok") {
      log(LogLevel::warning,
          "request '" + type + "' failed: " + protocol::text_in(answer->content, "evalue"));
    }
    for (auto& task : answer->resubmitted) actions_.emplace_back(Resubmit{std::move(task)});
    actions_.emplace_back(Reply{identity, std::move(answer->type), std::move(answer->content),
                                message.header, std::move(answer->buffers)});
    return;
  }
  hub_error(identity, message, "KeyError", "Bad Message Type: " + protocol::python_repr(type));
}

void Hub::on_bad_query(const std::string& identity, protocol::OpenError error) {
  // A peer that signs with another key can't check this answer either, but it fails at once instead
  // of waiting for its time-out. Garbage gets no answer.
  if (error == protocol::OpenError::wrong_signature) {
    actions_.emplace_back(Reply{identity,
                                "hub_error",
                                error_content("ValueError", std::string(protocol::describe(error))),
                                Json::object(),
                                {}});
  }
}

void Hub::connection_request(const std::string& identity, const Message& message) {
  protocol::ConnectionReply content;
  for (const auto& [id, engine] : registry_.engines()) {
    content.engines[std::to_string(id)] = engine.uuid;
  }
  log(LogLevel::info, "client connected");
  reply(identity, message, protocol::ConnectionReply::type, content);
}

void Hub::registration_request(const std::string& identity, const Message& message, TimePoint now) {
  const auto request = protocol::parse_content<protocol::RegistrationRequest>(message.content);
  if (!request) return hub_error(identity, message, "KeyError", request.error());
  if (request->id) make_room(*request->id, now);
  const bool has_route = request->relay >= protocol::kRelayVersion && options_.make_route;
  const std::string route = has_route ? options_.make_route(request->uuid) : "";
  const auto id =
      registry_.begin(request->uuid, request->id, now + options_.registration_timeout, route);
  if (!id) {
    log(LogLevel::error, "registration refused: " + id.error());
    return reply(identity, message, protocol::RegistrationReply::type,
                 error_content("KeyError", id.error()));
  }
  protocol::RegistrationReply content;
  content.id = *id;
  content.hb_period = static_cast<int>(heart_monitor_.period().count());
  content.connection_info = options_.engine_endpoints;
  content.relay = has_route ? protocol::kRelayVersion : 0;
  log(LogLevel::debug, "engine " + std::to_string(*id) + " (" + request->uuid + ") is registering");
  reply(identity, message, protocol::RegistrationReply::type, content);
}

// A supervisor starts the next process while the end of the last one is still being told.
void Hub::make_room(int id, TimePoint now) {
  const auto engine = registry_.engines().find(id);
  if (engine == registry_.engines().end()) return;
  const auto leaving = leaving_.find(engine->second.uuid);
  if (leaving == leaving_.end() || leaving->second.may_return) return;
  const std::string why = leaving->second.why;
  remove_engine(id, why, false, now);
}

void Hub::on_heart_subscribed(TimePoint now) {
  if (!early_ping_) early_ping_ = now + std::chrono::milliseconds(2);
}

void Hub::on_presence(const std::string& uuid, bool present, bool local, TimePoint now) {
  if (present) {
    // One that said goodbye goes, connected or not.
    const auto found = leaving_.find(uuid);
    if (found != leaving_.end() && found->second.may_return) leaving_.erase(found);
    take_back(uuid, now);
  } else if (registry_.find(uuid)) {
    leave(uuid, {now + (local ? kLocalGrace : kPresenceGrace),
                 "its process died or lost its connection", true});
  }
}

// The first reason counts, and the earlier end.
void Hub::leave(const std::string& uuid, Leaving leaving) {
  const auto [found, is_new] = leaving_.try_emplace(uuid, leaving);
  if (!is_new) found->second.gone_at = std::min(found->second.gone_at, leaving.gone_at);
}

void Hub::on_pong(const std::string& uuid, std::string_view payload, TimePoint now) {
  heart_monitor_.pong(uuid);
  if (const auto engine = registry_.finish(uuid)) {
    heart_monitor_.watch(uuid);
    log(LogLevel::info, "engine " + std::to_string(engine->id) + " (" + uuid + ") registered");
    return join(*engine, now);
  }
  const auto absentee = absentees_.find(uuid);
  if (absentee == absentees_.end()) return;
  unsigned long ping = 0;
  std::from_chars(payload.data(), payload.data() + payload.size(), ping);
  if (ping > absentee->second.last_ping) take_back(uuid, now);
}

void Hub::take_back(const std::string& uuid, TimePoint now) {
  const auto absentee = absentees_.find(uuid);
  if (absentee == absentees_.end()) return;
  const Engine engine = absentee->second.engine;
  absentees_.erase(absentee);
  if (!registry_.restore(engine)) return;
  heart_monitor_.watch(uuid);
  log(LogLevel::info, "engine " + std::to_string(engine.id) + " (" + uuid + ") is back");
  join(engine, now);
}

void Hub::join(const Engine& engine, TimePoint now) {
  // An engine of that id that has just left is announced before.
  for (const Change& notice : std::exchange(notices_, {})) announce_left(notice.engine);
  actions_.emplace_back(EngineJoined{engine});
  announce_joined(engine);
  remember_change(engine, now);
}

void Hub::announce_joined(const Engine& engine) {
  actions_.emplace_back(Notify{protocol::RegistrationNotification::type,
                               protocol::RegistrationNotification{engine.id, engine.uuid}});
}

void Hub::announce_left(const Engine& engine) {
  actions_.emplace_back(Notify{protocol::UnregistrationNotification::type,
                               protocol::UnregistrationNotification{engine.id, engine.uuid}});
}

void Hub::remember_change(const Engine& engine, TimePoint now) {
  while (!changes_.empty() && changes_.front().time + kConnecting < now) changes_.pop_front();
  changes_.push_back({now, engine});
}

// Some who ask never subscribe.
void Hub::forget_old_replies(TimePoint now) {
  while (!connection_replies_.empty() && connection_replies_.front() + kConnecting < now) {
    connection_replies_.pop_front();
  }
}

void Hub::on_client_subscribed(TimePoint now) {
  forget_old_replies(now);
  if (connection_replies_.empty()) return;
  // How it is now, not how it came to be: an id may have gone and come.
  std::map<int, Engine> changed;
  for (const Change& change : changes_) {
    if (change.time >= connection_replies_.front()) changed[change.engine.id] = change.engine;
  }
  for (const auto& [id, last] : changed) {
    const auto found = registry_.engines().find(id);
    if (found != registry_.engines().end()) {
      announce_joined(found->second);
    } else {
      announce_left(last);
    }
  }
}

void Hub::unregistration_request(const Message& message, TimePoint now) {
  const auto request = protocol::parse_content<protocol::UnregistrationRequest>(message.content);
  if (!request) return log(LogLevel::warning, "bad unregistration_request: " + request.error());
  if (request->reason) return on_death_report(*request, now);
  const auto engine = registry_.engines().find(request->id);
  if (engine == registry_.engines().end()) {
    return remove_engine(request->id, "it asked to leave", false, now);  // it was still registering
  }
  const bool told = told_to_end_.contains(engine->second.uuid);
  leave(engine->second.uuid,
        {now + kFarewellGrace, told ? "it was shut down" : "it asked to leave", false});
}

// The engine's supervisor knows how its process ended.
void Hub::on_death_report(const protocol::UnregistrationRequest& report, TimePoint now) {
  absentees_.erase(report.uuid.value_or(""));
  const auto engine = registry_.engines().find(report.id);
  if (engine == registry_.engines().end() || engine->second.uuid != report.uuid) {
    if (registry_.is_registering(report.id, report.uuid.value_or(""))) {
      remove_engine(report.id, *report.reason, false, now);
    }
    return;
  }
  // How it ended is its supervisor's business when it was to end.
  std::string why =
      told_to_end_.contains(engine->second.uuid) ? "it was shut down" : *report.reason;
  if (report.last_output && !report.last_output->empty()) {
    why += "\nIts last output was:\n" + *report.last_output;
  }
  leaving_[engine->second.uuid] = {now + kReportGrace, std::move(why), false};
}

void Hub::on_shutdown_accepted(const std::string& uuid) {
  if (!registry_.find(uuid) || !told_to_end_.insert(uuid).second) return;
  actions_.emplace_back(EngineRetired{uuid});
}

void Hub::on_engine_shutdown(const std::string& uuid, TimePoint now) {
  if (registry_.find(uuid)) leave(uuid, {now + kFarewellGrace, "it was shut down", false});
}

void Hub::remove_engine(int id, const std::string& why, bool may_return, TimePoint now) {
  const bool registered = registry_.engines().contains(id);
  const auto engine = registry_.remove(id);
  if (!engine) return;
  heart_monitor_.forget(engine->uuid);
  leaving_.erase(engine->uuid);
  told_to_end_.erase(engine->uuid);
  log(LogLevel::info, "engine " + std::to_string(id) + " is gone: " + first_line(why));
  if (!registered) return;
  if (may_return) expect_back(*engine);
  remember_change(*engine, now);
  const bool strands_requests = !ledger_.outstanding_on(engine->uuid).empty();
  actions_.emplace_back(EngineLost{*engine, why});
  if (strands_requests) {
    notices_.push_back({now + kNoticeDelay, *engine});
  } else {
    announce_left(*engine);
  }
}

void Hub::expect_back(const Engine& engine) {
  if (absentees_.size() >= kAbsentees) {  // the one that has been away longest
    absentees_.erase(std::min_element(
        absentees_.begin(), absentees_.end(),
        [](const auto& a, const auto& b) { return a.second.last_ping < b.second.last_ping; }));
  }
  absentees_[engine.uuid] = {engine, heart_monitor_.pings()};
}

void Hub::shutdown_request(const std::string& identity, const Message& message, TimePoint now) {
  reply(identity, message, protocol::ShutdownReply::type, protocol::OkReply{});
  stop("a client asked for it", now, message.header);
}

void Hub::on_stop_signal(const std::string& reason, TimePoint now) { stop(reason, now, nullptr); }

// Clients close their sockets when they hear of the end: they need time to read the answers first.
// They hear of one that a client asked for only, as with ipcontroller: closing in the middle of
// what their user does makes them print tracebacks.
void Hub::stop(const std::string& reason, TimePoint now, Json asked_by) {
  if (stop_asked_by_.is_null()) stop_asked_by_ = std::move(asked_by);
  if (stop_at_) return;
  log(LogLevel::info, "stopping: " + reason);
  stop_at_ = ledger_.pending_count() > 0 ? now + kStopGrace : now;
  actions_.emplace_back(AnswerAll{"the controller was stopped: " + reason});
}

void Hub::hub_error(const std::string& identity, const Message& message, const std::string& name,
                    const std::string& why) {
  log(LogLevel::warning, "request '" + message.header.msg_type + "' failed: " + why);
  reply(identity, message, "hub_error", error_content(name, why));
}

// Nobody will use what runs here any more: the last client is gone and has not come back.
void Hub::mind_solitude(TimePoint now) {
  if (stop_at_) return;
  if (engines_end_at_) {
    if (registry_.engines().empty() || *engines_end_at_ <= now)
      stop("no client came back", now, nullptr);
    return;
  }
  if (!linger_.over(ledger_.pending_count() > 0, now)) return;
  log(LogLevel::info, "no client for " + std::to_string(options_.linger.count()) +
                          " s: the engines are told to end");
  engines_end_at_ = now + kEnginesEnd;
  actions_.emplace_back(ShutDownEngines{});
}

void Hub::on_clients(bool present, TimePoint now, bool proven) {
  linger_.on_clients(present, now, proven);
  abandoned_cell_.on_clients(present, now);
}

void Hub::on_finished(const Record& record, TimePoint now) {
  // Without a time to linger engines are nobody's group.
  if (options_.linger.count() == 0) return;
  const auto content = protocol::unpack(record.result->content, record.packing);
  if (content && protocol::text_in(*content, "status") == "error") {
    abandoned_cell_.on_failure(record, now);
  }
}

void Hub::mind_abandoned_cell(TimePoint now) {
  const auto look = abandoned_cell_.next_look();
  if (!look || now < *look) return;
  EndCells cells{abandoned_cell_.due(ledger_.outstanding(), now)};
  if (cells.engines.empty()) return;
  log(LogLevel::info, "a cell failed on an engine, and there is no client: it is ended on " +
                          std::to_string(cells.engines.size()) + " others");
  actions_.emplace_back(std::move(cells));
}

void Hub::tick(TimePoint now) {
  mind_solitude(now);
  mind_abandoned_cell(now);
  while (!notices_.empty() && notices_.front().time <= now) {
    announce_left(notices_.front().engine);
    notices_.pop_front();
  }
  if (stop_at_ && *stop_at_ <= now) {
    if (!stop_asked_by_.is_null()) {
      actions_.emplace_back(
          Notify{protocol::ShutdownNotification::type, protocol::OkReply{}, stop_asked_by_});
    }
    actions_.emplace_back(Stop{});
  }
  for (const Engine& engine : registry_.drop_stalled(now)) {
    log(LogLevel::warning,
        "engine " + std::to_string(engine.id) + " never answered a ping: registration dropped");
  }
  for (auto entry = leaving_.begin(); entry != leaving_.end();) {
    const auto [uuid, leaving] = *entry++;  // remove_engine erases the entry
    if (leaving.gone_at > now) continue;
    if (const auto engine = registry_.find(uuid)) {
      remove_engine(engine->id, leaving.why, leaving.may_return, now);
    } else {
      leaving_.erase(uuid);
    }
  }
  const bool early_ping = early_ping_ && *early_ping_ <= now;
  if (early_ping) early_ping_.reset();
  if (now < heart_monitor_.next_deadline()) {
    if (early_ping) actions_.emplace_back(Ping{heart_monitor_.next_payload()});
    return;
  }
  for (const auto& uuid : heart_monitor_.beat(now)) {
    if (const auto engine = registry_.find(uuid)) {
      remove_engine(engine->id,
                    "it answered none of the last " +
                        std::to_string(options_.heart.max_misses + 1) + " pings",
                    true, now);
    }
  }
  actions_.emplace_back(Ping{heart_monitor_.next_payload()});
}

TimePoint Hub::next_deadline() const {
  const auto stalled = registry_.next_deadline();
  auto earliest = heart_monitor_.next_deadline();
  if (stalled) earliest = std::min(earliest, *stalled);
  if (early_ping_) earliest = std::min(earliest, *early_ping_);
  if (stop_at_) return std::min(earliest, *stop_at_);
  const auto solitude = engines_end_at_ ? engines_end_at_ : linger_.next_look();
  if (solitude) earliest = std::min(earliest, *solitude);
  if (const auto look = abandoned_cell_.next_look()) earliest = std::min(earliest, *look);
  if (!notices_.empty()) earliest = std::min(earliest, notices_.front().time);
  for (const auto& [uuid, leaving] : leaving_) earliest = std::min(earliest, leaving.gone_at);
  return earliest;
}

}  // namespace ddipp::controller
