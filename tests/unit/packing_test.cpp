#include "protocol/packing.hpp"

#include <doctest/doctest.h>

using namespace ddipp::protocol;

TEST_CASE("json and msgpack give back what was packed") {
  const Json value{{"a", 1}, {"b", {1.5, nullptr, "ü"}}};
  for (const auto packing : {Packing::json, Packing::msgpack}) {
    const auto unpacked = unpack(pack(value, packing), packing);
    REQUIRE(unpacked);
    CHECK(*unpacked == value);
  }
}

TEST_CASE("garbage is reported, not thrown") {
  CHECK_FALSE(unpack("{\"a\":", Packing::json));
  CHECK_FALSE(unpack("", Packing::json));
  CHECK_FALSE(unpack(std::string_view("\xC1", 1), Packing::msgpack));
  CHECK_FALSE(unpack("", Packing::msgpack));
}

TEST_CASE("text that is no UTF-8 is packed with replacement characters") {
  CHECK(pack(Json("a\xFFz"), Packing::json) == "\"a\xEF\xBF\xBDz\"");
}

TEST_CASE("the packer of the connection file is json or msgpack") {
  CHECK(*packing_from_name("json") == Packing::json);
  CHECK(*packing_from_name("orjson") == Packing::json);
  CHECK(*packing_from_name("msgpack") == Packing::msgpack);
  CHECK(packing_from_name("pickle").error() ==
        "packer 'pickle' in the connection file is not supported; use 'json' or 'msgpack'");
}
