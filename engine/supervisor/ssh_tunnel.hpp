// The ssh process through which an engine reaches its controller; ends with the supervisor.
#pragma once

#include <string>
#include <sys/types.h>

#include "protocol/packing.hpp"
#include "protocol/result.hpp"

namespace ddipp::engine {

class SshTunnel {
 public:
  // Opens it, or keeps the one that is open. Returns the connection at this end. Fails with one
  // line after ssh's own on stderr.
  Result<protocol::Json> open(const protocol::Json& connection, const std::string& server,
                              const std::string& key);

 private:
  pid_t ssh_ = -1;
  protocol::Json remote_, local_;
};

}  // namespace ddipp::engine
