#include "controller/relays/broadcast_channel.hpp"

#include <array>

#include "controller/core/routing.hpp"
#include "controller/relays/wire_records.hpp"
#include "protocol/extensions.hpp"

namespace ddipp::controller {

using protocol::Json;

namespace {

constexpr const char* kName = "the broadcast channel";

std::string child_id(const std::string& msg_id, const std::string& engine) {
  return msg_id + "_" + engine;
}

}  // namespace

// [client, delimiter, signature, header, parent header, metadata, content, buffers...]
void BroadcastChannel::on_request(net::Multipart& message, net::Clock::time_point now) {
  const auto frames = net::views(message);
  const auto envelope =
      services_.session.verify(frames, services_.guards[GuardOf::broadcast_requests]);
  if (!envelope || envelope->delimiter != 1) {
    const auto why = envelope ? "it has no sender" : describe(envelope.error());
    return services_.complaints.add(kName, why, now);
  }
  const auto whole = make_record(*envelope, message, services_.session.packing(),
                                 std::string(frames[0]), "", Queue::broadcast);
  auto header = protocol::unpack(envelope->header, services_.session.packing());
  auto metadata = protocol::unpack(envelope->metadata, services_.session.packing());
  if (!whole || !header || !metadata || !metadata->is_object()) {
    return services_.complaints.add(kName, "its header or metadata can't be read", now);
  }
  Json targets = Json::array();
  for (Json& target : (*metadata)["targets"]) {
    if (target.is_array() && !target.empty() && target[0].is_string()) {
      targets.push_back(std::move(target));
    }
  }
  (*metadata)["original_msg_id"] = whole->msg_id;
  const auto coalescing = metadata->find("is_coalescing");
  if (coalescing != metadata->end() && *coalescing == true && !targets.empty()) {
    pending_[whole->msg_id] = Pending{whole, targets, {}, {}, false};
    ledger_.submit(whole);
  }
  // The list of all targets grows with the engines: each gets its own entry only.
  Record child = *whole;
  child.request.metadata.clear();
  std::optional<std::string> buffers_code;
  for (const Json& target : targets) {
    (*metadata)["targets"] = Json::array({target});
    child.engine = target[0].get<std::string>();
    child.msg_id = child_id(whole->msg_id, child.engine);
    (*header)["msg_id"] = child.msg_id;
    child.request.header = protocol::pack(*header, child.packing);
    child.request.metadata = protocol::pack(*metadata, child.packing);
    send(std::make_shared<Record>(child), now, buffers_code);
  }
}

void BroadcastChannel::send(const RecordPtr& child, net::Clock::time_point now,
                            std::optional<std::string>& buffers_code) {
  if (!services_.registry.contains(child->engine)) {
    return fail(*child, "EngineError",
                "there is no engine with uuid " + child->engine + " (it is gone)");
  }
  ledger_.submit(child);
  outlet_.send(child->engine,
               request_frames(*child, {child->engine, child->client}, services_.session), now,
               &buffers_code);
}

// [engine, client, delimiter, ...]
void BroadcastChannel::on_reply(net::Multipart& message, net::Clock::time_point now) {
  name_by_uuid(message);
  const auto frames = net::views(message);
  const auto envelope =
      services_.session.verify(frames, services_.guards[GuardOf::broadcast_replies]);
  if (!envelope || envelope->delimiter < 2) {
    const auto why = envelope ? "it names no receiver" : describe(envelope.error());
    return services_.complaints.add("broadcast replies", why, now);
  }
  const auto metadata = protocol::unpack(envelope->metadata, services_.session.packing());
  if (!metadata || !metadata->is_object()) return;
  const auto msg_id = parent_id(*envelope, services_.session.packing());
  if (!ledger_.finish(msg_id, parts_of(*envelope, message), std::chrono::system_clock::now())) {
    return services_.log.debug("dropped a late answer to request {}", msg_id);
  }
  const auto coalescing = metadata->find("is_coalescing");
  if (coalescing != metadata->end() && *coalescing == true) {
    return coalesce(message, *envelope, *metadata);
  }
  // The client is the only identity that its socket expects.
  message.erase(message.begin());
  net::send(channel_.front, message);
}

void BroadcastChannel::coalesce(net::Multipart& message, const protocol::Verified& envelope,
                                const Json& metadata) {
  const auto original = metadata.find("original_msg_id");
  if (original == metadata.end() || !original->is_string()) return;
  const auto found = pending_.find(original->get<std::string>());
  if (found == pending_.end()) return;
  Pending& pending = found->second;
  const std::string engine(net::view(message[0]));
  net::Multipart buffers;
  for (std::size_t i = envelope.first_buffer; i < message.size(); ++i) {
    buffers.push_back(std::move(message[i]));
  }
  pending.buffers[engine] = std::move(buffers);
  const auto status = metadata.find("status");
  const bool failed = status == metadata.end() || *status != "ok";
  if (pending.reply.empty() || (failed && !pending.failed)) {
    message.resize(envelope.first_buffer);
    pending.reply = std::move(message);
    pending.failed = failed;
  }
  if (pending.buffers.size() < pending.targets.size()) return;
  send_joined(pending);
  pending_.erase(found);
}

void BroadcastChannel::send_joined(Pending& pending) {
  const auto frames = net::views(pending.reply);
  const auto envelope = services_.session.reopen(frames);
  if (!envelope) return;
  auto metadata = protocol::unpack(envelope->metadata, services_.session.packing());
  if (!metadata) return;
  (*metadata)["broadcast_targets"] = pending.targets;
  const std::string packed = protocol::pack(*metadata, services_.session.packing());
  const std::array<std::string_view, 4> parts{envelope->header, envelope->parent_header, packed,
                                              envelope->content};
  net::Multipart joined;
  joined.push_back(net::make_frame(pending.record->client));
  joined.push_back(net::make_frame(protocol::kDelimiter));
  joined.push_back(net::make_frame(services_.session.sign(parts)));
  for (const auto part : parts) joined.push_back(net::make_frame(part));
  for (const Json& target : pending.targets) {  // in the order of the targets
    const auto found = pending.buffers.find(target[0].get<std::string>());
    if (found == pending.buffers.end()) continue;
    for (auto& buffer : found->second) joined.push_back(std::move(buffer));
  }
  const auto views = net::views(joined);
  const auto joined_envelope = services_.session.reopen(views);
  ledger_.finish(pending.record->msg_id, parts_of(*joined_envelope, joined),
                 std::chrono::system_clock::now());
  net::send(channel_.front, joined);
}

void BroadcastChannel::remove_engine(const Engine& engine, const std::string& why) {
  outlet_.forget(engine.uuid);
  for (const auto& record : ledger_.outstanding_on(engine.uuid)) {
    if (record->queue != Queue::broadcast) continue;
    fail(*record, "EngineError", death_text(std::to_string(engine.id), record->msg_id, why),
         protocol::extensions::death_entry({first_line(why)}));
  }
}

void BroadcastChannel::fail(const Record& record, const std::string& name, const std::string& why,
                            const protocol::Json& ours) {
  const auto now = std::chrono::system_clock::now();
  const std::string engine = record.engine;
  auto reply = error_reply(record, name, why, services_.session, now, ours);
  services_.log.warn("request {} failed: {}", record.msg_id, first_line(why));
  const auto metadata = protocol::unpack(reply.parts.metadata, record.packing);
  ledger_.give_up(record.msg_id, std::move(reply.parts), now);
  const auto coalescing = metadata ? metadata->find("is_coalescing") : Json::const_iterator();
  if (!metadata || coalescing == metadata->end() || *coalescing != true || engine.empty()) {
    net::send(channel_.front, reply.frames);
    return;
  }
  reply.frames.insert(reply.frames.begin(), net::make_frame(engine));  // as if it had sent it
  const auto views = net::views(reply.frames);
  const auto envelope = services_.session.reopen(views);
  if (envelope) coalesce(reply.frames, *envelope, *metadata);
}

void BroadcastChannel::tick(net::Clock::time_point now) {
  outlet_.retry(now, [this](const std::string& engine, net::Multipart& message) {
    const auto record = ledger_.find(request_id(message, services_.session));
    if (record) fail(*record, "EngineError", "engine " + engine + " can't be reached");
  });
}

}  // namespace ddipp::controller
