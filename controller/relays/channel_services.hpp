// What every channel of the controller works with.
#pragma once

#include <spdlog/logger.h>

#include "controller/complaints.hpp"
#include "controller/core/ledger.hpp"
#include "controller/core/registry.hpp"
#include "protocol/session.hpp"

namespace ddipp::controller {

struct ChannelServices {
  protocol::Session& session;
  const Registry& registry;
  Complaints& complaints;
  spdlog::logger& log;
};

}  // namespace ddipp::controller
