// Replies that the io thread gives without Python.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "protocol/content.hpp"
#include "protocol/session.hpp"

namespace ddipp::engine {

// Metadata of the reply to an aborted request, as the stock engine fills it in.
protocol::Json aborted_metadata(const protocol::Json& request_metadata, const std::string& uuid,
                                protocol::Timestamp now);

// "SIGTERM", "TERM" or a number. Nothing for an unknown signal.
std::optional<int> signal_number(const protocol::SignalRequest& request);

}  // namespace ddipp::engine
