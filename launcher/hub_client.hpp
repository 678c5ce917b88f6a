// Asks a controller about its engines, as a client would, and signals them.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include <zmq.hpp>

#include "protocol/connection_file.hpp"
#include "protocol/net/multipart.hpp"
#include "protocol/result.hpp"
#include "protocol/session.hpp"

namespace ddipp::launcher {

class HubClient {
 public:
  // Fails with one line when the connection file can't be used.
  static Result<std::unique_ptr<HubClient>> connect(const protocol::ClientConnection& connection);
  // The same by the file; also fails when nobody answers.
  static Result<std::unique_ptr<HubClient>> connect(const std::filesystem::path& file);

  // Engine id to uuid. Nothing when no answer comes in time.
  std::optional<std::map<int, std::string>> engines(std::chrono::milliseconds timeout);

  // What queue_status tells: engine id to counts.
  std::optional<protocol::Json> queues(std::chrono::milliseconds timeout);

  // Whether the engine has taken the signal.
  bool signal(const std::string& uuid, int signal, std::chrono::milliseconds timeout);

 private:
  // `server_key` of CURVE, "" for none.
  HubClient(protocol::Session session, const std::string& query, const std::string& control,
            const std::string& server_key);

  std::optional<protocol::Json> ask(zmq::socket_t& socket, const std::string& type,
                                    protocol::Json content, std::vector<std::string> identities,
                                    std::chrono::milliseconds timeout);

  zmq::context_t context_;
  zmq::socket_t query_, control_;
  protocol::Session session_;
};

// The number of engines of the controller with that client file; fails when nobody answers.
Result<std::size_t> count_engines(const std::filesystem::path& client_file);

}  // namespace ddipp::launcher
