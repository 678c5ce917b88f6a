// The two connection files of a controller, or of the bare relay, and sessions that speak to it.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

#include "common/random_uuid.hpp"
#include "protocol/connection_file.hpp"
#include "protocol/session.hpp"

namespace ddipp::load {

struct Connection {
  protocol::ClientConnection client;
  protocol::EngineConnection engine;
  bool bare = false;  // a relay without a hub

  protocol::Session session() const {
    protocol::SessionOptions options;
    options.key = client.common.key;
    options.session_id = random_uuid();
    auto made = protocol::Session::make(options);
    if (!made) throw std::runtime_error(made.error());
    return std::move(*made);
  }

  static std::string url(int port) { return "tcp://127.0.0.1:" + std::to_string(port); }
};

inline Connection read_connection(const std::filesystem::path& security_folder) {
  Connection connection;
  const auto client = protocol::read_json_file(security_folder / "ipcontroller-client.json");
  const auto engine = protocol::read_json_file(security_folder / "ipcontroller-engine.json");
  if (!client || !engine) throw std::runtime_error("no connection files in the folder");
  auto parsed_client = protocol::parse_client_connection(*client);
  auto parsed_engine = protocol::parse_engine_connection(*engine);
  if (!parsed_client || !parsed_engine) throw std::runtime_error("bad connection files");
  connection.client = std::move(*parsed_client);
  connection.engine = std::move(*parsed_engine);
  connection.bare = client->contains("bare");
  return connection;
}

}  // namespace ddipp::load
