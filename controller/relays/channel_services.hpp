// What every channel of the controller works with.
#pragma once

#include <spdlog/logger.h>

#include "controller/complaints.hpp"
#include "controller/core/ledger.hpp"
#include "controller/core/registry.hpp"
#include "controller/relays/guards.hpp"
#include "protocol/session.hpp"

namespace ddipp::controller {

struct ChannelServices {
  protocol::Session& session;
  Guards& guards;
  const Registry& registry;
  Complaints& complaints;
  spdlog::logger& log;
  std::size_t queue_limit;  // bytes of requests without a result

  // Why this request can't be taken as well, or "".
  std::string refusal(const Ledger& ledger, const Record& record) const;
};

}  // namespace ddipp::controller
