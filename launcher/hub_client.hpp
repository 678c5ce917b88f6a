// Asks a controller how many engines it has, as a client would.
#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include <zmq.hpp>

#include "protocol/connection_file.hpp"
#include "protocol/result.hpp"
#include "protocol/session.hpp"

namespace ddipp::launcher {

class HubClient {
 public:
  // Fails with one line when the connection file can't be used.
  static Result<std::unique_ptr<HubClient>> connect(const protocol::ClientConnection& connection);

  // Nothing when no answer comes in time.
  std::optional<std::size_t> engine_count(std::chrono::milliseconds timeout);

 private:
  HubClient(protocol::Session session, const std::string& url);

  zmq::context_t context_;
  zmq::socket_t socket_;
  protocol::Session session_;
};

}  // namespace ddipp::launcher
