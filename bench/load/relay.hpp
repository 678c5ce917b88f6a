// The ceiling: a ROUTER-ROUTER relay that moves frames and looks at nothing but the identities.
#pragma once

#include <filesystem>

namespace ddipp::load {

// Writes connection files into the folder and relays until it is killed.
[[noreturn]] void run_relay(const std::filesystem::path& folder);

}  // namespace ddipp::load
