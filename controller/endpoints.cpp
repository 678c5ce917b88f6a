#include "controller/endpoints.hpp"

#include <stdexcept>

#include "protocol/address.hpp"

namespace ddipp::controller {
namespace {

using protocol::Interface;
using protocol::PortPool;

PortPool pool(const std::string& text) {
  if (text.empty()) return {};
  auto ports = protocol::parse_ports(text);
  if (!ports) throw std::runtime_error(ports.error());
  return PortPool(std::move(*ports));
}

Interface interface(const std::string& text) {
  auto parsed = protocol::parse_interface(text);
  if (!parsed) throw std::runtime_error(parsed.error());
  return std::move(*parsed);
}

class Binder {
 public:
  Binder(zmq::context_t& context, const Options& options)
      : context_(context),
        common_(pool(options.ports)),
        client_{interface(options.client_interface), pool(options.client_ports)},
        engine_{interface(options.engine_interface), pool(options.engine_ports)} {}

  zmq::socket_t make(zmq::socket_type type, const char* identity = nullptr) {
    zmq::socket_t socket(context_, type);
    socket.set(zmq::sockopt::sndhwm, 0);
    socket.set(zmq::sockopt::rcvhwm, 0);
    socket.set(zmq::sockopt::linger, 1000);
    if (identity != nullptr) socket.set(zmq::sockopt::routing_id, identity);
    return socket;
  }

  // An engine that comes back takes its identity over, and a message to an engine that is not
  // connected is an error rather than lost.
  zmq::socket_t make_engine_router(const char* identity) {
    zmq::socket_t socket = make(zmq::socket_type::router, identity);
    socket.set(zmq::sockopt::router_handover, true);
    socket.set(zmq::sockopt::router_mandatory, true);
    return socket;
  }

  int bind_for_clients(zmq::socket_t& socket) { return bind(socket, client_, next_port(client_)); }
  int bind_for_engines(zmq::socket_t& socket) { return bind(socket, engine_, next_port(engine_)); }

  // Both kinds of peers register, at one port on both interfaces.
  int bind_for_both(zmq::socket_t& socket) {
    const int port = bind_for_engines(socket);
    if (client_.interface.address != engine_.interface.address) bind(socket, client_, port);
    return port;
  }

 private:
  struct Side {
    Interface interface;
    PortPool pool;
  };

  int next_port(Side& side) {
    if (const auto port = side.pool.next()) return *port;
    if (const auto port = common_.next()) return *port;
    return side.interface.transport == "ipc" ? ++ipc_number_ : 0;
  }

  static int bind(zmq::socket_t& socket, const Side& side, int port) {
    const std::string address = protocol::url(side.interface, port);
    try {
      socket.bind(address);
    } catch (const zmq::error_t& error) {
      throw std::runtime_error("can't listen on " + address + ": " + error.what());
    }
    if (port != 0) return port;
    const std::string bound = socket.get(zmq::sockopt::last_endpoint);
    return std::stoi(bound.substr(bound.rfind(':') + 1));
  }

  zmq::context_t& context_;
  PortPool common_;
  Side client_;
  Side engine_;
  int ipc_number_ = 0;
};

}  // namespace

Endpoints::Endpoints(zmq::context_t& context, const Options& options, const std::string& key) {
  Binder binder(context, options);
  using zmq::socket_type;
  engine.common.registration = binder.bind_for_both(query = binder.make(socket_type::router));
  query.set(zmq::sockopt::router_handover, true);
  client.notification = binder.bind_for_clients(notification = binder.make(socket_type::pub));

  client.mux = binder.bind_for_clients(mux.front = binder.make(socket_type::router, "mux_in"));
  engine.mux = binder.bind_for_engines(mux.back = binder.make_engine_router("mux_out"));
  client.control =
      binder.bind_for_clients(control.front = binder.make(socket_type::router, "control_in"));
  engine.control = binder.bind_for_engines(control.back = binder.make_engine_router("control_out"));
  client.task = binder.bind_for_clients(task.front = binder.make(socket_type::router, "task_in"));
  engine.task = binder.bind_for_engines(task.back = binder.make_engine_router("task_out"));
  client.broadcast =
      binder.bind_for_clients(broadcast.front = binder.make(socket_type::router, "broadcast_in"));
  engine.broadcast = {
      binder.bind_for_engines(broadcast.back = binder.make_engine_router("broadcast_out"))};

  client.iopub = binder.bind_for_clients(iopub_front = binder.make(socket_type::pub));
  engine.iopub = binder.bind_for_engines(iopub_back = binder.make(socket_type::sub));
  iopub_back.set(zmq::sockopt::subscribe, "");

  engine.hb_ping = binder.bind_for_engines(ping = binder.make(socket_type::xpub));
  ping.set(zmq::sockopt::xpub_verbose, true);
  engine.hb_pong = binder.bind_for_engines(pong = binder.make(socket_type::router));
  pong.set(zmq::sockopt::router_handover, true);

  auto& common = engine.common;
  common.location = options.location;
  common.key = key;
  common.pack = common.unpack = options.pack;
  client.common = common;
  client.task_scheme = options.scheme;
  common.interface = options.engine_interface;
  common.ssh = options.engine_ssh;
  client.common.interface = options.client_interface;
  client.common.ssh = options.client_ssh;
}

}  // namespace ddipp::controller
