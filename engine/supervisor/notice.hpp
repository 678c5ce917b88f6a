// What the supervisor tells the controller.
#pragma once

#include <string>

#include "engine/supervisor/supervisor.hpp"

namespace ddipp::engine {

// Tells the controller that an engine has ended: unregistration_request with a reason, which a
// stock controller understands too. `details`: its last output, may be empty. Returns when it has
// left, after a second at most; what can't be sent is a line on stderr.
void send_notice(const WorkerStart& start, int id, const std::string& why,
                 const std::string& details);

}  // namespace ddipp::engine
