#include "protocol/net/curve.hpp"

#include <array>

namespace ddipp::net {

CurveKeys make_curve_keys() {
  std::array<char, 41> public_key{};
  std::array<char, 41> secret_key{};
  if (zmq_curve_keypair(public_key.data(), secret_key.data()) != 0) throw zmq::error_t();
  return {public_key.data(), secret_key.data()};
}

void use_curve_client(zmq::socket_t& socket, const std::string& server_key, const CurveKeys& own) {
  if (server_key.empty()) return;
  socket.set(zmq::sockopt::curve_serverkey, server_key);
  socket.set(zmq::sockopt::curve_publickey, own.public_key);
  socket.set(zmq::sockopt::curve_secretkey, own.secret_key);
}

}  // namespace ddipp::net
