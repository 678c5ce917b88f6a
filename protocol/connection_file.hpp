// ipcontroller-client.json and ipcontroller-engine.json: where a controller listens and the key
// that signs its messages (ipyparallel reference, "connections").
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "protocol/packing.hpp"
#include "protocol/result.hpp"

namespace ddipp::protocol {

struct ConnectionCommon {
  std::string interface = "tcp://127.0.0.1";  // transport://address
  std::string location;                       // host name or address of the controller
  std::string key;
  std::string signature_scheme = "hmac-sha256";
  std::string pack = "json";
  std::string unpack = "json";
  std::string ssh;              // [user@]server[:port], "" for none
  std::string curve_serverkey;  // Z85, "" for none
  int registration = 0;
};

struct ClientConnection {
  ConnectionCommon common;
  int control = 0;
  int mux = 0;
  int task = 0;
  int iopub = 0;
  int notification = 0;
  int broadcast = 0;
  std::string task_scheme = "leastload";
};

struct EngineConnection {
  ConnectionCommon common;
  int control = 0;
  int mux = 0;
  int task = 0;
  int iopub = 0;
  int hb_ping = 0;
  int hb_pong = 0;
  std::vector<int> broadcast;
};

Json to_json(const ClientConnection& connection);
Json to_json(const EngineConnection& connection);

// The part that a registration_reply repeats: interface and ports, no key.
Json endpoints(const EngineConnection& connection);

// Fail with one line that names the missing or ill-typed entry.
Result<ClientConnection> parse_client_connection(const Json& json);
Result<EngineConnection> parse_engine_connection(const Json& json);

// Fails with one line that names the file and what is wrong with it.
Result<Json> read_json_file(const std::filesystem::path& path);

// Writes a temporary file of mode 0600 in the same folder and renames it, so that a reader sees the
// old file or the new one and nobody else sees the key. Fails with one line naming path and cause.
Result<std::monostate> write_json_file(const std::filesystem::path& path, const Json& json);

}  // namespace ddipp::protocol
