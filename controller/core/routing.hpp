// How the channels rewrite the routing prefix of a message, and what a client is told when its
// engine dies. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "protocol/packing.hpp"
#include "protocol/result.hpp"

namespace ddipp::controller {

// A router socket puts the sender in front: [client, engine, ...]. The engine's side needs
// [engine, client, ...], and the way back is the same exchange. False when there are too few
// frames.
template <class Frames>
bool swap_identities(Frames& frames) {
  if (frames.size() < 3) return false;
  std::swap(frames[0], frames[1]);
  return true;
}

// "Engine 3 died while running task '<msg_id>': <why>", ipyparallel's sentence with the reason.
std::string death_text(const std::string& engine, const std::string& msg_id,
                       const std::string& why);

// Reasons are one line; what follows it are details for a traceback.
std::string first_line(const std::string& text);

// True when the header of an iopub message may be a shutdown_reply; a cheap test before parsing.
bool looks_like_shutdown_reply(std::string_view header);

// "engine:local:<uuid>" or "engine:remote:<uuid>", the topic that our engines subscribe to beside
// all pings so that the end of their connection is seen at once.
struct PresenceTopic {
  std::string uuid;
  bool local = false;  // on the controller's own machine
};

std::optional<PresenceTopic> parse_presence_topic(std::string_view topic);

}  // namespace ddipp::controller
