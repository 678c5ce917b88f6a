#include "protocol/packing.hpp"

#include <cstdint>
#include <limits>
#include <vector>

namespace ddipp::protocol {
namespace {

// Builds the value as the parser goes, and ends the parsing (which recurses with msgpack) at the
// first level too many. Copies, dumps and comparisons of what it lets through recurse that deep at
// most.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(Json& root) : root_(root) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t& value) override { return add(std::move(value)); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    // The last of two equal keys counts.
    slot_ = &(*open_.back())[std::move(name)];
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    *slot_ = std::move(value);
    return slot_;
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (open_.size() >= kMaxDepth) return false;
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Json& root_;
  std::vector<Json*> open_;  // from the root to the innermost value that is not complete
  Json* slot_ = nullptr;     // where the value of the last key goes
};

}  // namespace

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
  Json value;
  Builder builder(value);
  const bool whole = packing == Packing::json
                         ? Json::sax_parse(bytes, &builder)
                         : Json::sax_parse(bytes, &builder, Json::input_format_t::msgpack);
  if (!whole) {
    return Failure{std::string("a frame is not valid ") +
                   (packing == Packing::json ? "JSON" : "msgpack") + ", or nested deeper than " +
                   std::to_string(kMaxDepth) + " levels"};
  }
  return value;
}

namespace {

const Json* entry_of(const Json& map, const char* key) {
  if (!map.is_object()) return nullptr;
  const auto found = map.find(key);
  return found == map.end() ? nullptr : &*found;
}

}  // namespace

std::string text_in(const Json& map, const char* key) {
  const Json* entry = entry_of(map, key);
  return entry != nullptr && entry->is_string() ? entry->get<std::string>() : std::string();
}

Json map_in(const Json& map, const char* key) {
  const Json* entry = entry_of(map, key);
  return entry != nullptr && entry->is_object() ? *entry : Json::object();
}

std::optional<int> integer_in(const Json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    return number <= std::numeric_limits<int>::max() ? std::optional(static_cast<int>(number))
                                                     : std::nullopt;
  }
  const auto number = value.get<std::int64_t>();
  if (number < std::numeric_limits<int>::min() || number > std::numeric_limits<int>::max()) {
    return std::nullopt;
  }
  return static_cast<int>(number);
}

bool is_true_in(const Json& map, const char* key, bool missing) {
  const Json* entry = entry_of(map, key);
  return entry != nullptr && entry->is_boolean() ? entry->get<bool>() : missing;
}

}  // namespace ddipp::protocol
