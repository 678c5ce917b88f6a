// Connection files, and what our controller and engines put before messages: routes, relay tags.
#include <cstdint>
#include <string>
#include <string_view>

#include "protocol/connection_file.hpp"
#include "protocol/relay_tag.hpp"

using namespace ddipp::protocol;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto json = unpack(text, Packing::json)) {
    if (const auto client = parse_client_connection(*json)) {
      if (!parse_client_connection(to_json(*client))) __builtin_trap();
    }
    if (const auto engine = parse_engine_connection(*json)) {
      if (!parse_engine_connection(to_json(*engine))) __builtin_trap();
    }
  }
  static const auto session = Session::make({"key", "hmac-sha256", Packing::json, "fuzz"});
  static RelayCheck check;
  if (is_genuine(*session, text)) __builtin_trap();  // nobody guesses a code
  if (check.accept(*session, text, "uuid", "signature", "")) __builtin_trap();
  (void)uuid_of(text);
  return 0;
}
