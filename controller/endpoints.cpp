#include "controller/endpoints.hpp"

#include <algorithm>
#include <stdexcept>

#include "protocol/address.hpp"

namespace ddipp::controller {
namespace {

using protocol::Interface;

Interface interface(const std::string& text) {
  auto parsed = protocol::parse_interface(text);
  if (!parsed) throw std::runtime_error(parsed.error());
  return std::move(*parsed);
}

// Subscriptions and heartbeats; the longest topic is that of an engine's presence.
constexpr std::int64_t kSmallMessage = 4096;

class Binder {
 public:
  Binder(zmq::context_t& context, const ConnectionPlan& plan, std::int64_t limit)
      : context_(context),
        limit_(limit),
        curve_secret_key_(plan.curve_secret_key),
        client_(interface(plan.client.common.interface)),
        engine_(interface(plan.engine.common.interface)) {}

  zmq::socket_t make(zmq::socket_type type, const char* identity = nullptr) {
    zmq::socket_t socket(context_, type);
    socket.set(zmq::sockopt::sndhwm, 0);
    socket.set(zmq::sockopt::rcvhwm, 0);
    socket.set(zmq::sockopt::linger, 1000);
    socket.set(zmq::sockopt::maxmsgsize, limit_);
    if (identity != nullptr) socket.set(zmq::sockopt::routing_id, identity);
    if (!curve_secret_key_.empty()) {
      socket.set(zmq::sockopt::curve_server, true);
      socket.set(zmq::sockopt::curve_secretkey, curve_secret_key_);
    }
    return socket;
  }

  // For peers that only subscribe or beat.
  zmq::socket_t make_small(zmq::socket_type type) {
    zmq::socket_t socket = make(type);
    socket.set(zmq::sockopt::maxmsgsize, std::min(limit_, kSmallMessage));
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

  void bind_for_clients(zmq::socket_t& socket, int& port) { bind(socket, client_, port); }
  void bind_for_engines(zmq::socket_t& socket, int& port) { bind(socket, engine_, port); }

  // Both kinds of peers register, at one port on both interfaces.
  void bind_for_both(zmq::socket_t& socket, int& port) {
    bind_for_engines(socket, port);
    if (client_.address != engine_.address || client_.transport != engine_.transport) {
      bind(socket, client_, port);
    }
  }

 private:
  static void bind(zmq::socket_t& socket, const Interface& interface, int& port) {
    listen(socket, protocol::url(interface, port));
    if (interface.transport == "ipc") {
      // ipyparallel's controller and engines write a dash before the number, its client a colon.
      listen(socket, "ipc://" + interface.address + ":" + std::to_string(port));
    }
    if (port != 0) return;
    const std::string bound = socket.get(zmq::sockopt::last_endpoint);
    port = std::stoi(bound.substr(bound.rfind(':') + 1));
  }

  static void listen(zmq::socket_t& socket, const std::string& address) {
    try {
      socket.bind(address);
    } catch (const zmq::error_t& error) {
      throw std::runtime_error("can't listen on " + address + ": " + error.what());
    }
  }

  zmq::context_t& context_;
  std::int64_t limit_;
  std::string curve_secret_key_;
  Interface client_;
  Interface engine_;
};

}  // namespace

Endpoints::Endpoints(zmq::context_t& context, ConnectionPlan& plan, const Limits& limits) {
  Binder binder(context, plan, limits.message);
  using zmq::socket_type;
  auto& client = plan.client;
  auto& engine = plan.engine;
  query = binder.make(socket_type::router);
  binder.bind_for_both(query, engine.common.registration);
  client.common.registration = engine.common.registration;
  notification = binder.make_small(socket_type::xpub);
  notification.set(zmq::sockopt::xpub_verbose, true);  // each client's subscription is seen
  binder.bind_for_clients(notification, client.notification);

  const auto make_channel = [&](Channel& channel, const char* front, int& front_port,
                                const char* back, int& back_port) {
    channel.front = binder.make(socket_type::router, front);
    channel.back = binder.make_engine_router(back);
    binder.bind_for_clients(channel.front, front_port);
    binder.bind_for_engines(channel.back, back_port);
  };
  make_channel(mux, "mux_in", client.mux, "mux_out", engine.mux);
  make_channel(control, "control_in", client.control, "control_out", engine.control);
  make_channel(task, "task_in", client.task, "task_out", engine.task);
  make_channel(broadcast, "broadcast_in", client.broadcast, "broadcast_out",
               engine.broadcast.front());
  for (std::size_t i = 1; i < engine.broadcast.size(); ++i) {  // of a reused file
    binder.bind_for_engines(broadcast.back, engine.broadcast[i]);
  }

  iopub_front = binder.make_small(socket_type::xpub);
  iopub_front.set(zmq::sockopt::sndhwm, limits.output);
  iopub_front.set(zmq::sockopt::xpub_verbose, true);
  binder.bind_for_clients(iopub_front, client.iopub);
  iopub_back = binder.make(socket_type::sub);
  iopub_back.set(zmq::sockopt::subscribe, "");
  binder.bind_for_engines(iopub_back, engine.iopub);

  ping = binder.make_small(socket_type::xpub);
  ping.set(zmq::sockopt::xpub_verbose, true);
  binder.bind_for_engines(ping, engine.hb_ping);
  pong = binder.make_small(socket_type::router);
  pong.set(zmq::sockopt::router_handover, true);
  binder.bind_for_engines(pong, engine.hb_pong);
}

void Endpoints::set_handover(bool on) {
  for (zmq::socket_t* socket : {&mux.back, &control.back, &task.back, &broadcast.back, &pong}) {
    socket->set(zmq::sockopt::router_handover, on);
  }
}

}  // namespace ddipp::controller
