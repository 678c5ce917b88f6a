#include "controller/routing.hpp"

#include "protocol/content.hpp"
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
  reply.content = protocol::error_content("EngineError", why);
  return reply;
}

bool looks_like_shutdown_reply(std::string_view header) {
  return header.find("shutdown_reply") != std::string_view::npos;
}

std::optional<PresenceTopic> parse_presence_topic(std::string_view topic) {
  for (const bool local : {true, false}) {
    const std::string_view prefix = local ? "engine:local:" : "engine:remote:";
    if (topic.starts_with(prefix)) {
      return PresenceTopic{std::string(topic.substr(prefix.size())), local};
    }
  }
  return std::nullopt;
}

}  // namespace ddipp::controller
