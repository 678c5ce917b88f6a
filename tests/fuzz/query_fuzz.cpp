// db_query: any JSON as a query, against a record with and without a result.
#include <cstdint>
#include <string_view>

#include "controller/core/query.hpp"
#include "records.hpp"

using namespace ddipp;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto unfinished = test::make_record("m1", "engine");
  static const auto finished = [] {
    auto record = test::make_record("m2", "engine", controller::Queue::task);
    record->result = test::make_result();
    return record;
  }();
  const auto json =
      protocol::unpack({reinterpret_cast<const char*>(data), size}, protocol::Packing::json);
  if (!json) return 0;
  const auto query = controller::parse_query(*json);
  if (!query) return 0;
  (void)controller::matches(*query, *unfinished);
  (void)controller::matches(*query, *finished);
  return 0;
}
