#include "engine/supervisor/notice.hpp"

#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <stdexcept>

#include "engine/border/sockets.hpp"
#include "protocol/content.hpp"
#include "protocol/net/multipart.hpp"
#include "protocol/relay_tag.hpp"
#include "protocol/session.hpp"

namespace ddipp::engine {
namespace {

using protocol::Json;

void send(const WorkerStart& start, const protocol::UnregistrationRequest& content) {
  const auto connection = protocol::parse_engine_connection(start.connection);
  if (!connection) throw std::runtime_error(connection.error());
  const auto packing = protocol::packing_from_name(connection->common.pack);
  if (!packing) throw std::runtime_error(packing.error());
  const std::string identity = start.uuid + "-supervisor";
  auto session = protocol::Session::make(
      {connection->common.key, connection->common.signature_scheme, *packing, identity});
  if (!session) throw std::runtime_error(session.error());

  const std::string empty = protocol::pack(Json::object(), *packing);
  const std::string header = protocol::pack(
      session->make_header(protocol::UnregistrationRequest::type, std::chrono::system_clock::now()),
      *packing);
  const std::string body = protocol::pack(content, *packing);
  const std::array<std::string_view, 4> parts{header, empty, empty, body};

  Sockets sockets(*connection,
                  session->signs() ? protocol::make_route(*session, identity) : identity);
  net::Multipart message;
  message.push_back(net::make_frame(protocol::kDelimiter));
  message.push_back(net::make_frame(session->sign(parts)));
  for (const auto part : parts) message.push_back(net::make_frame(part));
  net::send(sockets.registrar, message);
  sockets.close();
}

}  // namespace

void send_notice(const WorkerStart& start, int id, const std::string& why,
                 const std::string& details) {
  protocol::UnregistrationRequest content;
  content.id = id;
  content.uuid = start.uuid;
  content.reason = why;
  content.last_output = details;
  try {
    send(start, content);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dipengine: can't tell the controller of the end: %s\n", error.what());
  }
}

}  // namespace ddipp::engine
