// Broadcast views: one request of a client becomes one for each of its engines, and the replies go
// back one by one or, for a coalescing view, joined into one. Buffers are shared, not copied.
#pragma once

#include <map>
#include <string>
#include <unordered_map>

#include <spdlog/logger.h>

#include "controller/endpoints.hpp"
#include "controller/hub.hpp"
#include "protocol/net/multipart.hpp"
#include "protocol/session.hpp"

namespace ddipp::controller {

class BroadcastChannel {
 public:
  BroadcastChannel(Channel& channel, protocol::Session& session, const Registry& registry,
                   spdlog::logger& log)
      : channel_(channel), session_(session), registry_(registry), log_(log) {}

  void on_submission(net::Multipart& message);
  void on_result(net::Multipart& message);

  // The client settles what such an engine owed it; nothing stays outstanding here either.
  void remove_engine(const std::string& uuid);

 private:
  // A coalescing request on its way.
  struct Pending {
    protocol::Json targets;                         // [[uuid, id], ...] as the client gave them
    std::map<std::string, net::Multipart> buffers;  // of each reply, by engine
    net::Multipart reply;  // the frames that stand for all: an error if there was one
    bool failed = false;
  };

  void send_to(const std::string& engine, net::Multipart& message,
               const protocol::Envelope& envelope, const protocol::Json& header,
               const std::string& metadata, const std::string& msg_id);
  void refuse(const std::string& engine, std::string_view client, const protocol::Json& header,
              const protocol::Json& metadata, const std::string& msg_id);
  void coalesce(net::Multipart& message, const protocol::Envelope& envelope,
                const protocol::Json& metadata);
  void send_joined(Pending& pending);

  Channel& channel_;
  protocol::Session& session_;
  const Registry& registry_;
  spdlog::logger& log_;
  std::unordered_map<std::string, Pending> pending_;  // by the client's msg_id
};

}  // namespace ddipp::controller
