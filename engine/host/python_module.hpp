// The extension module `_ddipp_engine`, through which the Python half of the engine takes requests
// and gives replies and output.
#pragma once

#include <functional>
#include <string>

#include <spdlog/logger.h>

#include "engine/border/shared_state.hpp"
#include "engine/host/group_guard.hpp"
#include "engine/host/inbox.hpp"
#include "engine/host/outbox.hpp"
#include "engine/host/output_capture.hpp"
#include "engine/host/python_api.hpp"
#include "engine/host/registration.hpp"
#include "engine/host/stack_sampler.hpp"

namespace ddipp::engine {

// What the module's functions act on. Outlives the interpreter.
struct ModuleContext {
  std::string options;  // JSON, as dipengine wrote it
  int fault_fd;
  SharedState& state;
  Inbox& inbox;
  Inbox& debug_inbox;
  Outbox& outbox;
  OutputCapture& capture;
  Registration& registration;
  GroupGuard& group_guard;
  StackSampler& stack_sampler;
  spdlog::logger& log;
  std::function<void(int exit_code)> exit_process;  // does not return
};

}  // namespace ddipp::engine
