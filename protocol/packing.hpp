// How header, parent header, metadata and content become bytes: JSON, or msgpack where the
// connection file says so.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "protocol/result.hpp"

namespace ddipp::protocol {

using Json = nlohmann::json;

enum class Packing { json, msgpack };

// Reads the `pack` entry of a connection file. "orjson" writes JSON; "pickle" is refused because
// reading it runs code of the sender's choice.
Result<Packing> packing_from_name(std::string_view name);

std::string pack(const Json& value, Packing packing);

// Fails on bytes that are not a value of this packing; never throws.
Result<Json> unpack(std::string_view bytes, Packing packing);

}  // namespace ddipp::protocol
