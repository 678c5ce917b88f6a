// How an engine reaches its controller through ssh: one process that forwards every port. Pure.
#pragma once

#include <string>
#include <vector>

#include "protocol/packing.hpp"
#include "protocol/result.hpp"

namespace ddipp::engine {

struct Forward {
  int local_port = 0;
  int remote_port = 0;
};

// The ports of an engine's connection, broadcast ones included. Fails with one line.
Result<std::vector<int>> ports_of(const protocol::Json& connection);

// The connection as it is at this end of the tunnel.
protocol::Json through(const protocol::Json& connection, const std::vector<Forward>& forwards);

// ssh's arguments. `server`: [user@]host[:port]; `key`: a private key file, "" for ssh's own
// choice. It asks no questions and changes nothing about which host keys are accepted.
std::vector<std::string> ssh_arguments(const std::string& server, const std::string& key,
                                       const protocol::Json& connection,
                                       const std::vector<Forward>& forwards);

}  // namespace ddipp::engine
