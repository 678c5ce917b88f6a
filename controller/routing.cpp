#include "controller/routing.hpp"

#include "controller/hub.hpp"
#include "protocol/message.hpp"
#include "protocol/session.hpp"

namespace ddipp::controller {

std::optional<UndeliverableReply> undeliverable_reply(std::span<const std::string_view> frames,
                                                      protocol::Packing packing,
                                                      const std::string& why) {
  const auto envelope = protocol::locate(frames);
  if (!envelope || envelope->delimiter < 2) return std::nullopt;
  const auto header = protocol::unpack(envelope->header, packing);
  if (!header) return std::nullopt;
  const auto parsed = protocol::parse_header(*header);
  if (!parsed || !parsed->msg_type.ends_with("_request")) return std::nullopt;

  UndeliverableReply reply;
  reply.client = std::string(frames[1]);
  reply.header_type = protocol::reply_type(parsed->msg_type);
  reply.parent_header = *header;
  reply.metadata = {{"engine", std::string(frames[0])}, {"status", "error"}};
  reply.content = error_content("EngineError", why);
  return reply;
}

std::vector<UndeliverableReply> refusals(std::span<const std::string_view> frames,
                                         protocol::Packing packing, const std::string& why) {
  std::vector<std::string_view> with_engine{std::string_view()};
  with_engine.insert(with_engine.end(), frames.begin(), frames.end());
  auto reply = undeliverable_reply(with_engine, packing, "");
  if (!reply) return {};
  reply->content = error_content("NotImplementedError", why);
  reply->metadata.erase("engine");

  const auto envelope = protocol::locate(frames);
  const auto metadata = protocol::unpack(envelope->metadata, packing);
  if (!metadata || !metadata->is_object() || !metadata->value("is_broadcast", false)) {
    return {std::move(*reply)};
  }
  const auto targets = metadata->value("targets", protocol::Json::array());
  const std::string msg_id = reply->parent_header.at("msg_id").get<std::string>();
  reply->metadata["is_broadcast"] = true;
  reply->metadata["original_msg_id"] = msg_id;
  if (metadata->value("is_coalescing", false)) {
    reply->metadata["is_coalescing"] = true;
    reply->metadata["broadcast_targets"] = targets;
    return {std::move(*reply)};
  }
  std::vector<UndeliverableReply> replies;
  for (const auto& target : targets) {
    if (!target.is_array() || target.empty() || !target[0].is_string()) continue;
    replies.push_back(*reply);
    replies.back().metadata["engine"] = target[0];
    replies.back().parent_header["msg_id"] = msg_id + "_" + target[0].get<std::string>();
  }
  return replies;
}

bool looks_like_shutdown_reply(std::string_view header) {
  return header.find("shutdown_reply") != std::string_view::npos;
}

std::optional<std::string> engine_of_presence_topic(std::string_view topic) {
  constexpr std::string_view prefix = "engine:";
  if (!topic.starts_with(prefix)) return std::nullopt;
  return std::string(topic.substr(prefix.size()));
}

}  // namespace ddipp::controller
