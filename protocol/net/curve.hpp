// CURVE encryption of sockets (ZeroMQ RFC 26). Keys are Z85 texts of 40 characters.
#pragma once

#include <string>

#include <zmq.hpp>

namespace ddipp::net {

struct CurveKeys {
  std::string public_key;
  std::string secret_key;
};

// A fresh pair; throws zmq::error_t when libzmq was built without CURVE.
CurveKeys make_curve_keys();

// No-op with an empty server key.
void use_curve_client(zmq::socket_t& socket, const std::string& server_key, const CurveKeys& own);

}  // namespace ddipp::net
