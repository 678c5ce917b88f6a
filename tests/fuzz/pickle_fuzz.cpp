// Pickled buffers of a database that somebody else wrote.
#include <cstdint>
#include <string_view>

#include "controller/core/pickled_buffers.hpp"

using namespace ddipp::controller;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto buffers = unpickle_buffers({reinterpret_cast<const char*>(data), size});
  if (!buffers) return 0;
  const auto again = unpickle_buffers(pickle_buffers(*buffers));
  if (!again || again->size() != buffers->size()) __builtin_trap();
  for (std::size_t i = 0; i < buffers->size(); ++i) {
    if ((*again)[i].view() != (*buffers)[i].view()) __builtin_trap();
  }
  return 0;
}
