// Dates on the wire: ISO 8601 with microseconds and an offset.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace ddipp::protocol {

using Timestamp = std::chrono::system_clock::time_point;

// 2026-01-31T12:34:56.789012Z
std::string iso8601(Timestamp time);

// Reads what Jupyter's clients write: date, "T", time, fraction of up to nine digits or none, then
// "Z", an offset such as +01:00 or +0100, or nothing, which is taken for UTC. Years 1700 to 2200.
std::optional<Timestamp> parse_iso8601(std::string_view text);

}  // namespace ddipp::protocol
