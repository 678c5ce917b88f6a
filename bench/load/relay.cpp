#include "load/relay.hpp"

#include <utility>

#include "common/random_uuid.hpp"
#include "protocol/connection_file.hpp"
#include "protocol/net/reactor.hpp"

namespace ddipp::load {
namespace {

int bind(zmq::socket_t& socket) {
  socket.set(zmq::sockopt::sndhwm, 0);
  socket.set(zmq::sockopt::rcvhwm, 0);
  socket.bind("tcp://127.0.0.1:*");
  const std::string bound = socket.get(zmq::sockopt::last_endpoint);
  return std::stoi(bound.substr(bound.rfind(':') + 1));
}

}  // namespace

void run_relay(const std::filesystem::path& folder) {
  zmq::context_t context;
  zmq::socket_t front(context, zmq::socket_type::router);
  zmq::socket_t back(context, zmq::socket_type::router);
  protocol::ClientConnection client;
  protocol::EngineConnection engine;
  client.common.key = engine.common.key = random_uuid();
  client.mux = bind(front);
  engine.mux = bind(back);
  engine.broadcast = {0};
  auto client_json = protocol::to_json(client);
  client_json["bare"] = true;
  (void)protocol::write_json_file(folder / "ipcontroller-engine.json", protocol::to_json(engine));
  (void)protocol::write_json_file(folder / "ipcontroller-client.json", client_json);

  net::Reactor reactor;
  const auto relay = [](zmq::socket_t& to) {
    return [&to](net::Multipart& message) {
      std::swap(message[0], message[1]);
      net::send(to, message);
    };
  };
  reactor.add(front, relay(back));
  reactor.add(back, relay(front));
  while (true) reactor.turn();
}

}  // namespace ddipp::load
