#include "launcher/hub_client.hpp"

#include <charconv>

#include "common/random_uuid.hpp"
#include "protocol/address.hpp"
#include "protocol/content.hpp"
#include "protocol/net/curve.hpp"

namespace ddipp::launcher {

using namespace std::chrono_literals;
using protocol::Json;

HubClient::HubClient(protocol::Session session, const std::string& query,
                     const std::string& control, const std::string& server_key)
    : query_(context_, zmq::socket_type::dealer),
      control_(context_, zmq::socket_type::dealer),
      session_(std::move(session)) {
  for (auto* socket : {&query_, &control_}) {
    socket->set(zmq::sockopt::linger, 0);
    if (!server_key.empty()) net::use_curve_client(*socket, server_key, net::make_curve_keys());
  }
  query_.connect(query);
  control_.connect(control);
}

Result<std::unique_ptr<HubClient>> HubClient::connect(
    const protocol::ClientConnection& connection) {
  const auto& common = connection.common;
  const auto packing = protocol::packing_from_name(common.pack);
  if (!packing) return Failure{packing.error()};
  auto session =
      protocol::Session::make({common.key, common.signature_scheme, *packing, random_uuid()});
  if (!session) return Failure{session.error()};
  auto interface = protocol::parse_interface(common.interface);
  if (!interface) return Failure{interface.error()};
  // The controller was started by this program, on this machine.
  interface->address = protocol::connectable_address(interface->address, "", {});
  return std::unique_ptr<HubClient>(
      new HubClient(std::move(*session), protocol::url(*interface, common.registration),
                    protocol::url(*interface, connection.control), common.curve_serverkey));
}

Result<std::unique_ptr<HubClient>> HubClient::connect(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) {
    return Failure{"no controller has written " + file.string() +
                   "; start one with: dipcluster start"};
  }
  const auto json = protocol::read_json_file(file);
  if (!json) return Failure{json.error()};
  const auto connection = protocol::parse_client_connection(*json);
  if (!connection) return Failure{connection.error()};
  auto hub = connect(*connection);
  if (hub && !(*hub)->engines(3s)) {
    return Failure{"no controller answers where " + file.string() +
                   " says; remove what is left of it with: dipcluster clean"};
  }
  return hub;
}

std::optional<Json> HubClient::ask(zmq::socket_t& socket, const std::string& type, Json content,
                                   std::vector<std::string> identities,
                                   std::chrono::milliseconds timeout) {
  protocol::Message request;
  request.identities = std::move(identities);
  request.header = session_.make_header(type, std::chrono::system_clock::now());
  request.content = std::move(content);
  net::Multipart frames = net::make_multipart(session_.seal(request));
  net::send(socket, frames);
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    zmq::pollitem_t item{socket.handle(), 0, ZMQ_POLLIN, 0};
    net::Multipart answer;
    if (left.count() <= 0 || zmq::poll(&item, 1, left) == 0 || !net::receive(socket, answer)) {
      return std::nullopt;
    }
    const auto message = session_.open(net::views(answer));
    if (!message) return std::nullopt;
    // An earlier question may have been answered late.
    if (protocol::text_in(message->parent_header, "msg_id") == request.header.msg_id) {
      return message->content;
    }
  }
}

std::optional<std::map<int, std::string>> HubClient::engines(std::chrono::milliseconds timeout) {
  const auto content = ask(query_, protocol::ConnectionRequest::type, Json::object(), {}, timeout);
  if (!content) return std::nullopt;
  const auto reply = protocol::parse_content<protocol::ConnectionReply>(*content);
  if (!reply) return std::nullopt;
  std::map<int, std::string> engines;
  for (const auto& [text, uuid] : reply->engines) {
    int id = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (error == std::errc() && end == text.data() + text.size()) engines[id] = uuid;
  }
  return engines;
}

std::optional<Json> HubClient::queues(std::chrono::milliseconds timeout) {
  return ask(query_, "queue_request", {{"targets", nullptr}, {"verbose", false}}, {}, timeout);
}

bool HubClient::signal(const std::string& uuid, int signal, std::chrono::milliseconds timeout) {
  return ask(control_, "signal_request", {{"sig", signal}}, {uuid}, timeout).has_value();
}

Result<std::size_t> count_engines(const std::filesystem::path& client_file) {
  auto hub = HubClient::connect(client_file);
  if (!hub) return Failure{hub.error()};
  const auto engines = (*hub)->engines(3s);
  if (!engines) return Failure{std::string("the controller does not answer")};
  return engines->size();
}

}  // namespace ddipp::launcher
