// Reads a few text entries of a packed map without building the rest of it. A relay looks at the
// ids in the headers of every message, and at nothing else.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "protocol/packing.hpp"

namespace ddipp::protocol {

struct TextField {
  std::string_view name;
  std::string& value;  // "" when the map has no such text; a truth value is "true" or "false"
};

// Looks at the top level only and stops when all fields are found. False when the bytes are no map
// as far as they were read; never throws.
bool read_texts(std::string_view packed, Packing packing, std::initializer_list<TextField> fields);

}  // namespace ddipp::protocol
