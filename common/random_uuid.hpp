// A UUID from the system's random source, for what is pure elsewhere.
#pragma once

#include <array>
#include <cstdint>
#include <random>
#include <string>

#include "protocol/session.hpp"

namespace ddipp {

inline std::string random_uuid() {
  std::random_device device;
  std::array<std::uint8_t, 16> bytes{};
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(device());
  return protocol::make_uuid(bytes);
}

}  // namespace ddipp
