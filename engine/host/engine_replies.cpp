#include "engine/host/engine_replies.hpp"

#include <csignal>
#include <cstring>

namespace ddipp::engine {

using protocol::Json;

Json aborted_metadata(const Json& request_metadata, const std::string& uuid,
                      protocol::Timestamp now) {
  Json metadata{{"started", protocol::iso8601(now)},
                {"dependencies_met", true},
                {"engine", uuid},
                {"is_broadcast", false},
                {"is_coalescing", false},
                {"original_msg_id", ""},
                {"label", nullptr},
                {"status", "aborted"}};
  for (const char* key : {"is_broadcast", "is_coalescing", "original_msg_id", "label"}) {
    if (request_metadata.is_object() && request_metadata.contains(key)) {
      metadata[key] = request_metadata.at(key);
    }
  }
  return metadata;
}

std::optional<int> signal_number(const protocol::SignalRequest& request) {
  if (const int* number = std::get_if<int>(&request.sig)) {
    if (*number >= 0 && *number < NSIG) return *number;
    return std::nullopt;
  }
  std::string_view name = std::get<std::string>(request.sig);
  if (name.starts_with("SIG")) name.remove_prefix(3);
  for (int number = 1; number < NSIG; ++number) {
    const char* abbreviation = ::sigabbrev_np(number);
    if (abbreviation != nullptr && name == abbreviation) return number;
  }
  return std::nullopt;
}

}  // namespace ddipp::engine
