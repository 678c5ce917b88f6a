#include "controller/broadcast_channel.hpp"

#include <array>

#include "controller/routing.hpp"

namespace ddipp::controller {

using protocol::Json;

// [client, delimiter, signature, header, parent header, metadata, content, buffers...]
void BroadcastChannel::on_submission(net::Multipart& message) {
  const auto frames = net::views(message);
  const auto envelope = session_.verify(frames);
  if (!envelope || envelope->delimiter != 1) {
    return log_.warn("ignored a broadcast: {}",
                     envelope ? "it has no sender" : protocol::describe(envelope.error()));
  }
  auto header = protocol::unpack(envelope->header, session_.packing());
  auto metadata = protocol::unpack(envelope->metadata, session_.packing());
  const auto parsed = header ? protocol::parse_header(*header) : Failure{header.error()};
  if (!parsed || !metadata || !metadata->is_object()) {
    return log_.warn("ignored a broadcast: its header or metadata can't be read");
  }
  const std::string msg_id = parsed->msg_id;
  const Json targets = metadata->value("targets", Json::array());
  (*metadata)["original_msg_id"] = msg_id;
  if (metadata->value("is_coalescing", false)) pending_[msg_id].targets = targets;
  const std::string packed_metadata = protocol::pack(*metadata, session_.packing());
  for (const Json& target : targets) {
    if (!target.is_array() || target.empty() || !target[0].is_string()) continue;
    const std::string engine = target[0].get<std::string>();
    if (registry_.find(engine)) {
      send_to(engine, message, *envelope, *header, packed_metadata, msg_id);
    } else {
      refuse(engine, frames[0], *header, *metadata, msg_id);
    }
  }
}

void BroadcastChannel::send_to(const std::string& engine, net::Multipart& message,
                               const protocol::Envelope& envelope, const Json& header,
                               const std::string& metadata, const std::string& msg_id) {
  Json own_header = header;
  own_header["msg_id"] = msg_id + "_" + engine;
  const std::string packed_header = protocol::pack(own_header, session_.packing());
  const std::array<std::string_view, 4> parts{packed_header, envelope.parent_header, metadata,
                                              envelope.content};
  net::Multipart copy;
  copy.push_back(net::make_frame(engine));
  copy.emplace_back().copy(message[0]);
  copy.push_back(net::make_frame(protocol::kDelimiter));
  copy.push_back(net::make_frame(session_.sign(parts)));
  for (const auto part : parts) copy.push_back(net::make_frame(part));
  for (std::size_t i = envelope.first_buffer; i < message.size(); ++i) {
    copy.emplace_back().copy(message[i]);
  }
  if (net::send(channel_.back, copy) != net::SendStatus::sent) {
    refuse(engine, net::view(message[0]), header, Json::object(), msg_id);
  }
}

void BroadcastChannel::refuse(const std::string& engine, std::string_view client,
                              const Json& header, const Json& metadata, const std::string& msg_id) {
  protocol::Message reply;
  reply.identities = {std::string(client)};
  reply.header =
      session_.make_header(protocol::reply_type(header.at("msg_type").get<std::string>()),
                           std::chrono::system_clock::now());
  reply.parent_header = header;
  reply.parent_header["msg_id"] = msg_id + "_" + engine;
  reply.content = protocol::error_content("EngineError", "engine " + engine + " can't be reached");
  reply.metadata = {{"engine", engine},
                    {"status", "error"},
                    {"is_broadcast", true},
                    {"is_coalescing", metadata.value("is_coalescing", false)},
                    {"original_msg_id", msg_id}};
  net::Multipart frames = net::make_multipart(session_.seal(reply));
  if (!reply.metadata["is_coalescing"].get<bool>()) {
    net::send(channel_.front, frames);
    return;
  }
  frames.insert(frames.begin(), net::make_frame(engine));  // as if the engine had sent it
  const auto views = net::views(frames);
  const auto envelope = protocol::locate(views);
  if (envelope) coalesce(frames, *envelope, reply.metadata);
}

// [engine, client, delimiter, ...]
void BroadcastChannel::on_result(net::Multipart& message) {
  const auto frames = net::views(message);
  const auto envelope = session_.verify(frames);
  if (!envelope || envelope->delimiter < 2) {
    return log_.warn("ignored the result of a broadcast: {}",
                     envelope ? "it has no receiver" : protocol::describe(envelope.error()));
  }
  const auto metadata = protocol::unpack(envelope->metadata, session_.packing());
  if (!metadata || !metadata->is_object()) return;
  if (metadata->value("is_coalescing", false)) return coalesce(message, *envelope, *metadata);
  // The client is the only identity that its socket expects.
  message.erase(message.begin());
  net::send(channel_.front, message);
}

void BroadcastChannel::coalesce(net::Multipart& message, const protocol::Envelope& envelope,
                                const Json& metadata) {
  const auto found = pending_.find(metadata.value("original_msg_id", ""));
  if (found == pending_.end()) return;
  Pending& pending = found->second;
  const std::string engine(net::view(message[0]));
  net::Multipart buffers;
  for (std::size_t i = envelope.first_buffer; i < message.size(); ++i) {
    buffers.push_back(std::move(message[i]));
  }
  pending.buffers[engine] = std::move(buffers);
  const bool failed = metadata.value("status", "") != "ok";
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
  const auto envelope = protocol::locate(frames);
  if (!envelope) return;
  auto metadata = protocol::unpack(envelope->metadata, session_.packing());
  if (!metadata) return;
  (*metadata)["broadcast_targets"] = pending.targets;
  const std::string packed = protocol::pack(*metadata, session_.packing());
  const std::array<std::string_view, 4> parts{envelope->header, envelope->parent_header, packed,
                                              envelope->content};
  net::Multipart joined;
  joined.push_back(net::make_frame(frames[1]));  // the client
  joined.push_back(net::make_frame(protocol::kDelimiter));
  joined.push_back(net::make_frame(session_.sign(parts)));
  for (const auto part : parts) joined.push_back(net::make_frame(part));
  for (const Json& target : pending.targets) {  // in the order of the targets
    const auto found = pending.buffers.find(target[0].get<std::string>());
    if (found == pending.buffers.end()) continue;
    for (auto& buffer : found->second) joined.push_back(std::move(buffer));
  }
  net::send(channel_.front, joined);
}

void BroadcastChannel::remove_engine(const std::string& uuid) {
  std::erase_if(pending_, [&](const auto& entry) {
    for (const Json& target : entry.second.targets) {
      if (target.is_array() && !target.empty() && target[0] == uuid) return true;
    }
    return false;
  });
}

}  // namespace ddipp::controller
