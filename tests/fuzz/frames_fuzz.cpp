// The frame parser: any frames, with and without a key. Frames are separated by bytes 0xff.
#include <cstdint>
#include <string_view>
#include <vector>

#include "protocol/session.hpp"

using namespace ddipp::protocol;

namespace {

Session make(const char* key, Packing packing) {
  SessionOptions options;
  options.key = key;
  options.packing = packing;
  auto session = Session::make(options);
  return std::move(*session);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::vector<std::string_view> frames;
  while (true) {
    const auto end = rest.find('\xff');
    frames.push_back(rest.substr(0, end));
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  static Session open_json = make("", Packing::json);
  static Session open_msgpack = make("", Packing::msgpack);
  static Session closed = make("key", Packing::json);
  (void)open_msgpack.open(frames);
  const auto message = open_json.open(frames);
  if (message && open_json.seal(*message).size() < 6) __builtin_trap();
  if (closed.open(frames)) __builtin_trap();  // nobody guesses a signature
  return 0;
}
