#include "launcher/hub_client.hpp"

#include "protocol/address.hpp"
#include "protocol/content.hpp"
#include "protocol/net/multipart.hpp"

namespace ddipp::launcher {

HubClient::HubClient(protocol::Session session, const std::string& url)
    : socket_(context_, zmq::socket_type::dealer), session_(std::move(session)) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.connect(url);
}

Result<std::unique_ptr<HubClient>> HubClient::connect(
    const protocol::ClientConnection& connection) {
  const auto& common = connection.common;
  const auto packing = protocol::packing_from_name(common.pack);
  if (!packing) return Failure{packing.error()};
  auto session =
      protocol::Session::make({common.key, common.signature_scheme, *packing, "dipcluster"});
  if (!session) return Failure{session.error()};
  auto interface = protocol::parse_interface(common.interface);
  if (!interface) return Failure{interface.error()};
  // The controller was started by this program, on this machine.
  interface->address = protocol::connectable_address(interface->address, "", {});
  const std::string url = protocol::url(*interface, common.registration);
  return std::unique_ptr<HubClient>(new HubClient(std::move(*session), url));
}

std::optional<std::size_t> HubClient::engine_count(std::chrono::milliseconds timeout) {
  protocol::Message request;
  request.header =
      session_.make_header(protocol::ConnectionRequest::type, std::chrono::system_clock::now());
  net::Multipart frames = net::make_multipart(session_.seal(request));
  net::send(socket_, frames);
  zmq::pollitem_t item{socket_.handle(), 0, ZMQ_POLLIN, 0};
  net::Multipart answer;
  if (zmq::poll(&item, 1, timeout) == 0 || !net::receive(socket_, answer)) return std::nullopt;
  const auto message = session_.open(net::views(answer));
  if (!message) return std::nullopt;
  const auto reply = protocol::parse_content<protocol::ConnectionReply>(message->content);
  if (!reply) return std::nullopt;
  return reply->engines.size();
}

}  // namespace ddipp::launcher
