#include "controller/core/routing.hpp"

#include "protocol/content.hpp"
#include "protocol/extensions.hpp"
#include "protocol/message.hpp"
#include "protocol/session.hpp"

namespace ddipp::controller {

std::string death_text(const std::string& engine, const std::string& msg_id,
                       const std::string& why) {
  return "Engine " + engine + " died while running task '" + msg_id + "': " + why;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

bool looks_like_shutdown_reply(std::string_view header) {
  return header.find("shutdown_reply") != std::string_view::npos;
}

std::optional<PresenceTopic> parse_presence_topic(std::string_view topic) {
  for (const bool local : {true, false}) {
    const std::string_view prefix =
        local ? protocol::extensions::kLocalPresence : protocol::extensions::kRemotePresence;
    if (topic.starts_with(prefix)) {
      return PresenceTopic{std::string(topic.substr(prefix.size())), local};
    }
  }
  return std::nullopt;
}

}  // namespace ddipp::controller
