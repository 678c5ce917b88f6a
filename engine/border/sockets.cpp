#include "engine/border/sockets.hpp"

#include <arpa/inet.h>
#include <array>
#include <ifaddrs.h>
#include <memory>
#include <netinet/in.h>
#include <stdexcept>
#include <unistd.h>

#include "protocol/address.hpp"
#include "protocol/extensions.hpp"

namespace ddipp::engine {
namespace {

protocol::HostNames own_names() {
  protocol::HostNames names;
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) == 0) names.host_name = name.data();
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return names;
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, ::freeifaddrs);
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) continue;
    const auto* address = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
    std::array<char, INET_ADDRSTRLEN> text{};
    if (::inet_ntop(AF_INET, &address->sin_addr, text.data(), text.size()) != nullptr) {
      names.addresses.emplace_back(text.data());
    }
  }
  return names;
}

}  // namespace

Sockets::Sockets(const protocol::EngineConnection& connection, std::string identity)
    : connection_(connection), identity_(std::move(identity)) {
  const auto interface = protocol::parse_interface(connection_.common.interface);
  if (!interface) throw std::runtime_error(interface.error());
  ipc_ = interface->transport == "ipc";
  host_ = interface->transport + "://" +
          (ipc_ ? interface->address
                : protocol::connectable_address(interface->address, connection_.common.location,
                                                own_names()));
  if (!connection_.common.curve_serverkey.empty()) curve_ = net::make_curve_keys();
  registrar = make(zmq::socket_type::dealer);
  registration_url_ = url(connection_.common.registration);
  registrar.connect(registration_url_);
}

std::string Sockets::url(int port) const {
  return host_ + (ipc_ ? "-" : ":") + std::to_string(port);
}

zmq::socket_t Sockets::make(zmq::socket_type type) {
  zmq::socket_t socket(context_, type);
  socket.set(zmq::sockopt::routing_id, identity_);
  socket.set(zmq::sockopt::sndhwm, 0);
  socket.set(zmq::sockopt::rcvhwm, 0);
  socket.set(zmq::sockopt::linger, 1000);
  net::use_curve_client(socket, connection_.common.curve_serverkey, curve_);
  return socket;
}

std::string Sockets::presence_topic() const {
  const bool local = ipc_ || host_.starts_with("tcp://127.");
  const auto prefix =
      local ? protocol::extensions::kLocalPresence : protocol::extensions::kRemotePresence;
  return std::string(prefix) + identity_;
}

void Sockets::connect_channels(int id, std::string identity) {
  identity_ = std::move(identity);
  shell = make(zmq::socket_type::router);
  shell.connect(url(connection_.mux));
  shell.connect(url(connection_.task));
  const auto leaf = static_cast<std::size_t>(id) % connection_.broadcast.size();
  shell.connect(url(connection_.broadcast[leaf]));

  control = make(zmq::socket_type::router);
  control.connect(url(connection_.control));

  iopub = make(zmq::socket_type::xpub);
  iopub.connect(url(connection_.iopub));

  pong = make(zmq::socket_type::dealer);
  pong.connect(url(connection_.hb_pong));

  ping = make(zmq::socket_type::sub);
  ping.set(zmq::sockopt::subscribe, "");
  ping.set(zmq::sockopt::subscribe, presence_topic());
  constexpr const char* address = "inproc://ping-monitor";
  if (zmq_socket_monitor(ping.handle(), address, ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED) !=
      0) {
    throw zmq::error_t();
  }
  monitor = zmq::socket_t(context_, zmq::socket_type::pair);
  monitor.connect(address);
  ping.connect(url(connection_.hb_ping));
}

std::set<int> Sockets::ports() const {
  std::set<int> ports = bound_ports_;
  if (ipc_) return ports;
  ports.insert({connection_.common.registration, connection_.mux, connection_.task,
                connection_.control, connection_.iopub, connection_.hb_ping, connection_.hb_pong});
  ports.insert(connection_.broadcast.begin(), connection_.broadcast.end());
  return ports;
}

BoundPorts Sockets::bind_kernel(const std::string& identity) {
  // For the connections to come; those to the controller keep theirs.
  shell.set(zmq::sockopt::routing_id, identity);
  control.set(zmq::sockopt::routing_id, identity);
  identity_ = identity;
  standard_input = make(zmq::socket_type::router);
  heartbeat = make(zmq::socket_type::rep);
  const auto bind = [this](zmq::socket_t& socket) {
    socket.bind("tcp://127.0.0.1:*");
    const std::string endpoint = socket.get(zmq::sockopt::last_endpoint);
    const int port = std::stoi(endpoint.substr(endpoint.rfind(':') + 1));
    bound_ports_.insert(port);
    return port;
  };
  BoundPorts ports;
  ports.shell = bind(shell);
  ports.iopub = bind(iopub);
  ports.standard_input = bind(standard_input);
  ports.control = bind(control);
  ports.heartbeat = bind(heartbeat);
  return ports;
}

void Sockets::close() {
  for (zmq::socket_t* socket : {&registrar, &shell, &control, &iopub, &ping, &pong, &monitor,
                                &standard_input, &heartbeat}) {
    socket->close();
  }
  context_.close();
}

}  // namespace ddipp::engine
