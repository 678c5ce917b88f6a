#include "protocol/packing.hpp"

#include <cstdint>
#include <vector>

namespace ddipp::protocol {

Result<Packing> packing_from_name(std::string_view name) {
  if (name == "json" || name == "orjson") return Packing::json;
  if (name == "msgpack" || name == "msgpack.packb" || name == "msgpack.unpackb") {
    return Packing::msgpack;
  }
  return Failure{"packer '" + std::string(name) +
                 "' in the connection file is not supported; use 'json' or 'msgpack'"};
}

std::string pack(const Json& value, Packing packing) {
  if (packing == Packing::json) {
    // Bytes that are no UTF-8 (a user's output) become U+FFFD rather than an exception.
    return value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  const std::vector<std::uint8_t> bytes = Json::to_msgpack(value);
  return {bytes.begin(), bytes.end()};
}

Result<Json> unpack(std::string_view bytes, Packing packing) {
  Json value = packing == Packing::json ? Json::parse(bytes, nullptr, false)
                                        : Json::from_msgpack(bytes, true, false);
  if (value.is_discarded()) {
    return Failure{std::string("a frame is not valid ") +
                   (packing == Packing::json ? "JSON" : "msgpack")};
  }
  return value;
}

}  // namespace ddipp::protocol
