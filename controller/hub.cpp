#include "controller/hub.hpp"

#include <algorithm>
#include <utility>

namespace ddipp::controller {

using protocol::error_content;
using protocol::Json;
using protocol::Message;

Hub::Hub(HubOptions options, TimePoint now)
    : options_(std::move(options)), heart_monitor_(options_.heart, now) {}

void Hub::reply(const std::string& identity, const Message& request, std::string type,
                Json content) {
  actions_.emplace_back(Reply{identity, std::move(type), std::move(content), request.header});
}

void Hub::on_query(const std::string& identity, const Message& message, TimePoint now) {
  const std::string& type = message.header.msg_type;
  if (type == protocol::ConnectionRequest::type) return connection_request(identity, message);
  if (type == protocol::RegistrationRequest::type) {
    return registration_request(identity, message, now);
  }
  if (type == protocol::UnregistrationRequest::type) return unregistration_request(message);
  if (type == protocol::ShutdownRequest::type) return shutdown_request(identity, message);
  hub_error(identity, message, "NotImplementedError",
            "this controller does not answer '" + type + "'");
}

void Hub::on_bad_query(const std::string& identity, protocol::OpenError error) {
  const std::string why(protocol::describe(error));
  log(LogLevel::warning, "ignored a request to the hub: " + why);
  // A peer that signs with another key can't check this answer either, but it fails at once instead
  // of waiting for its time-out. Garbage gets no answer.
  if (error == protocol::OpenError::wrong_signature) {
    actions_.emplace_back(
        Reply{identity, "hub_error", error_content("ValueError", why), Json::object()});
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
  const auto id = registry_.begin(request->uuid, request->id, now + options_.registration_timeout);
  if (!id) {
    log(LogLevel::error, "registration refused: " + id.error());
    return reply(identity, message, protocol::RegistrationReply::type,
                 error_content("KeyError", id.error()));
  }
  protocol::RegistrationReply content;
  content.id = *id;
  content.hb_period = static_cast<int>(heart_monitor_.period().count());
  content.connection_info = options_.engine_endpoints;
  log(LogLevel::debug, "engine " + std::to_string(*id) + " (" + request->uuid + ") is registering");
  reply(identity, message, protocol::RegistrationReply::type, content);
}

void Hub::on_heart_subscribed(TimePoint now) {
  if (!early_ping_) early_ping_ = now + std::chrono::milliseconds(2);
}

void Hub::on_presence(const std::string& uuid, bool present, bool local, TimePoint now) {
  if (present) {
    absent_.erase(uuid);
  } else if (registry_.find(uuid)) {
    absent_[uuid] = now + (local ? kLocalGrace : kPresenceGrace);
  }
}

void Hub::on_pong(const std::string& uuid) {
  heart_monitor_.pong(uuid);
  const auto engine = registry_.finish(uuid);
  if (!engine) return;
  heart_monitor_.watch(uuid);
  log(LogLevel::info, "engine " + std::to_string(engine->id) + " (" + uuid + ") registered");
  actions_.emplace_back(Notify{protocol::RegistrationNotification::type,
                               protocol::RegistrationNotification{engine->id, uuid}});
}

void Hub::unregistration_request(const Message& message) {
  const auto request = protocol::parse_content<protocol::UnregistrationRequest>(message.content);
  if (!request) return log(LogLevel::warning, "bad unregistration_request: " + request.error());
  remove_engine(request->id, "it asked to leave");
}

void Hub::on_engine_shutdown(const std::string& uuid) {
  if (const auto engine = registry_.find(uuid)) remove_engine(engine->id, "it was shut down");
}

void Hub::remove_engine(int id, const std::string& why) {
  const bool registered = registry_.engines().contains(id);
  const auto engine = registry_.remove(id);
  if (!engine) return;
  heart_monitor_.forget(engine->uuid);
  absent_.erase(engine->uuid);
  log(LogLevel::info, "engine " + std::to_string(id) + " is gone: " + why);
  if (!registered) return;
  actions_.emplace_back(Notify{protocol::UnregistrationNotification::type,
                               protocol::UnregistrationNotification{engine->id, engine->uuid}});
}

void Hub::shutdown_request(const std::string& identity, const Message& message) {
  reply(identity, message, protocol::ShutdownReply::type, protocol::OkReply{});
  stop("a client asked for it");
}

void Hub::on_stop_signal(const std::string& reason) { stop(reason); }

void Hub::stop(const std::string& reason) {
  if (std::exchange(stopping_, true)) return;
  log(LogLevel::info, "stopping: " + reason);
  actions_.emplace_back(
      Notify{protocol::ShutdownNotification::type, protocol::ShutdownNotification{}});
  actions_.emplace_back(Stop{});
}

void Hub::hub_error(const std::string& identity, const Message& message, const std::string& name,
                    const std::string& why) {
  log(LogLevel::warning, "request '" + message.header.msg_type + "' failed: " + why);
  reply(identity, message, "hub_error", error_content(name, why));
}

void Hub::tick(TimePoint now) {
  for (const Engine& engine : registry_.drop_stalled(now)) {
    log(LogLevel::warning,
        "engine " + std::to_string(engine.id) + " never answered a ping: registration dropped");
  }
  for (auto absent = absent_.begin(); absent != absent_.end();) {
    const auto [uuid, dead_at] = *absent++;  // remove_engine erases the entry
    const auto engine = registry_.find(uuid);
    if (dead_at <= now && engine)
      remove_engine(engine->id, "its process died or lost its connection");
  }
  const bool early_ping = early_ping_ && *early_ping_ <= now;
  if (early_ping) early_ping_.reset();
  if (now < heart_monitor_.next_deadline()) {
    if (early_ping) actions_.emplace_back(Ping{heart_monitor_.next_payload()});
    return;
  }
  for (const auto& uuid : heart_monitor_.beat(now)) {
    if (const auto engine = registry_.find(uuid)) {
      remove_engine(engine->id, "it answered none of the last " +
                                    std::to_string(options_.heart.max_misses + 1) + " pings");
    }
  }
  actions_.emplace_back(Ping{heart_monitor_.next_payload()});
}

TimePoint Hub::next_deadline() const {
  const auto stalled = registry_.next_deadline();
  auto earliest = heart_monitor_.next_deadline();
  if (stalled) earliest = std::min(earliest, *stalled);
  if (early_ping_) earliest = std::min(earliest, *early_ping_);
  for (const auto& [uuid, dead_at] : absent_) earliest = std::min(earliest, dead_at);
  return earliest;
}

}  // namespace ddipp::controller
