// How header, parent header, metadata and content become bytes: JSON, or msgpack where the
// connection file says so.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "protocol/result.hpp"

namespace ddipp::protocol {

using Json = nlohmann::json;

enum class Packing { json, msgpack };

// Levels of lists and maps in what peers send and files hold.
inline constexpr std::size_t kMaxDepth = 200;

// Reads the `pack` entry of a connection file. "orjson" writes JSON; "pickle" is refused because
// reading it runs code of the sender's choice.
Result<Packing> packing_from_name(std::string_view name);

std::string pack(const Json& value, Packing packing);

// Fails on bytes that are not a value of this packing, or one of too many levels; never throws.
Result<Json> unpack(std::string_view bytes, Packing packing);

// Entries of what a peer sent, by the type that is wanted: what is missing, or of another type, or
// in no map, is empty. nlohmann's value() and get() throw then.
std::string text_in(const Json& map, const char* key);
Json map_in(const Json& map, const char* key);
std::optional<int> integer_in(const Json& value);  // of a value that is one, and fits
bool is_true_in(const Json& map, const char* key, bool missing = false);

}  // namespace ddipp::protocol
