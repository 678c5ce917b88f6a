// Headers, metadata and contents: the texts that a relay reads, dates, dependencies, and the typed
// contents of the hub's requests.
#include <cstdint>
#include <string>
#include <string_view>

#include "controller/core/dependency.hpp"
#include "controller/core/routing.hpp"
#include "protocol/content.hpp"
#include "protocol/fields.hpp"
#include "protocol/iso8601.hpp"
#include "protocol/message.hpp"

using namespace ddipp;
using protocol::Packing;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const Packing packing : {Packing::json, Packing::msgpack}) {
    std::string id;
    std::string type;
    const bool read = protocol::read_texts(text, packing, {{"msg_id", id}, {"msg_type", type}});
    const auto json = protocol::unpack(text, packing);
    // What the whole parser takes for a map the quick one does not refuse.
    if (json && json->is_object() && !read) __builtin_trap();
    if (!json) continue;
    (void)protocol::parse_header(*json);
    (void)controller::parse_dependency(*json);
    (void)protocol::parse_content<protocol::RegistrationRequest>(*json);
    (void)protocol::parse_content<protocol::QueueRequest>(*json);
    (void)protocol::parse_content<protocol::ResultRequest>(*json);
    (void)protocol::parse_content<protocol::DbRequest>(*json);
    (void)protocol::parse_content<protocol::PurgeRequest>(*json);
    (void)protocol::parse_content<protocol::ResubmitRequest>(*json);
  }
  (void)controller::parse_presence_topic(text);
  const auto time = protocol::parse_iso8601(text);
  if (time && protocol::parse_iso8601(protocol::iso8601(*time)) != time) __builtin_trap();
  return 0;
}
