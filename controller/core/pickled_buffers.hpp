// A list of byte strings as Python pickles it: the form of the buffers in ipyparallel's tasks.db.
// Pure. Nothing else of pickle is understood, and nothing is executed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "protocol/blob.hpp"
#include "protocol/result.hpp"

namespace ddipp::controller {

// Protocol 4, which Python 3.4 and later read.
std::string pickle_buffers(const std::vector<protocol::Blob>& buffers);

// Protocols 3 to 5. Fails with one line on anything but a list of byte strings.
Result<std::vector<protocol::Blob>> unpickle_buffers(std::string_view pickled);

}  // namespace ddipp::controller
