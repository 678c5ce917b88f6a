// A library of its own, so that libzmq stays out of the global scope of the process that forks the
// workers: pyzmq brings another one.
#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <stdexcept>

#include "engine/host/sockets.hpp"
#include "protocol/content.hpp"
#include "protocol/net/multipart.hpp"
#include "protocol/session.hpp"

namespace ddipp::engine {
namespace {

using protocol::Json;

void send_notice(const Json& notice) {
  const auto connection = protocol::parse_engine_connection(notice.at("connection"));
  if (!connection) throw std::runtime_error(connection.error());
  const auto packing = protocol::packing_from_name(connection->common.pack);
  if (!packing) throw std::runtime_error(packing.error());
  const auto uuid = notice.at("uuid").get<std::string>();
  const std::string identity = uuid + "-supervisor";
  auto session = protocol::Session::make(
      {connection->common.key, connection->common.signature_scheme, *packing, identity});
  if (!session) throw std::runtime_error(session.error());

  protocol::UnregistrationRequest content;
  content.id = notice.at("id").get<int>();
  content.uuid = uuid;
  content.reason = notice.at("reason").get<std::string>();
  content.last_output = notice.at("last_output").get<std::string>();
  const std::string empty = protocol::pack(Json::object(), *packing);
  const std::string header = protocol::pack(
      session->make_header(protocol::UnregistrationRequest::type, std::chrono::system_clock::now()),
      *packing);
  const std::string body = protocol::pack(content, *packing);
  const std::array<std::string_view, 4> parts{header, empty, empty, body};

  Sockets sockets(*connection, identity);
  net::Multipart message;
  message.push_back(net::make_frame(protocol::kDelimiter));
  message.push_back(net::make_frame(session->sign(parts)));
  for (const auto part : parts) message.push_back(net::make_frame(part));
  net::send(sockets.registrar, message);
  sockets.close();
}

}  // namespace
}  // namespace ddipp::engine

// Tells the controller that an engine has ended: unregistration_request with a reason, which a
// stock controller understands too. `notice`: JSON of connection, uuid, id, reason, last_output.
// Returns when it has left, after a second at most; false with a line on stderr when it can't be
// sent.
extern "C" __attribute__((visibility("default"))) bool ddipp_send_notice(const char* notice) {
  try {
    ddipp::engine::send_notice(ddipp::protocol::Json::parse(notice));
    return true;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dipengine: can't tell the controller of the end: %s\n", error.what());
    return false;
  }
}
