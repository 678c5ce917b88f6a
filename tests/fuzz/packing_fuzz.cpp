// Any bytes as JSON and as msgpack; what is read can be copied, compared and written again.
#include <cstdint>
#include <string_view>

#include "protocol/packing.hpp"

using namespace ddipp::protocol;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const Packing packing : {Packing::json, Packing::msgpack}) {
    const auto value = unpack(text, packing);
    if (!value) continue;
    const Json copy = *value;
    (void)(copy == *value);
    (void)pack(copy, Packing::json);
    const auto again = unpack(pack(copy, Packing::msgpack), Packing::msgpack);
    if (!again) __builtin_trap();
    (void)text_in(copy, "a");
    (void)map_in(copy, "a");
    (void)integer_in(copy);
  }
  return 0;
}
