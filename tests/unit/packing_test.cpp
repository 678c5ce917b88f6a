#include "protocol/packing.hpp"

#include <doctest/doctest.h>

#include "protocol/fields.hpp"

using namespace ddipp::protocol;

namespace {

std::string nested(std::size_t levels, Packing packing) {
  return packing == Packing::json ? std::string(levels, '[') + std::string(levels, ']')
                                  : std::string(levels - 1, '\x91') + '\x90';
}

}  // namespace

TEST_CASE("values of up to so many levels are read, deeper ones are refused") {
  for (const auto packing : {Packing::json, Packing::msgpack}) {
    CHECK(unpack(nested(kMaxDepth, packing), packing));
    CHECK_FALSE(unpack(nested(kMaxDepth + 1, packing), packing));
    CHECK_FALSE(unpack(nested(1'000'000, packing), packing));
    std::string text;
    const std::string map = packing == Packing::json ? "{\"a\":" + nested(1'000'000, packing) + "}"
                                                     : "\x81\xa1"
                                                       "a" +
                                                           nested(1'000'000, packing);
    CHECK_FALSE(read_texts(map, packing, {{"b", text}}));
  }
}

TEST_CASE("what is read is what nlohmann reads") {
  for (const char* text :
       {"null", "true", "-1", "18446744073709551615", "1.5", "\"a\"", "[]", "{}", "[1,[2,{}],3]",
        R"({"a":{"b":[1,null,"c"]},"d":{}})", R"({"a":1,"a":2})", R"({"a":[1],"a":{"b":3}})"}) {
    const Json expected = Json::parse(text);
    const auto from_json = unpack(text, Packing::json);
    REQUIRE(from_json);
    CHECK(*from_json == expected);
    const auto packed = pack(expected, Packing::msgpack);
    const auto from_msgpack = unpack(packed, Packing::msgpack);
    REQUIRE(from_msgpack);
    CHECK(*from_msgpack == expected);
  }
  for (const char* text : {"", "[", "{", "{\"a\"}", "1 2", "[1,]", "nul", "\xff"}) {
    CHECK_FALSE(unpack(text, Packing::json));
  }
}

TEST_CASE("entries of another type are as good as none") {
  const Json map{{"text", "a"}, {"number", 5}, {"map", Json::object({{"b", 1}})}, {"yes", true}};
  CHECK(text_in(map, "text") == "a");
  CHECK(text_in(map, "number").empty());
  CHECK(text_in(Json(5), "text").empty());
  CHECK(map_in(map, "map") == Json{{"b", 1}});
  CHECK(map_in(map, "text") == Json::object());
  CHECK(is_true_in(map, "yes"));
  CHECK_FALSE(is_true_in(map, "text"));
  CHECK(is_true_in(map, "missing", true));
  CHECK(integer_in(Json(5)) == 5);
  CHECK_FALSE(integer_in(Json(5.0)));
  CHECK_FALSE(integer_in(Json(3'000'000'000)));
  CHECK_FALSE(integer_in(Json(-3'000'000'000)));
  CHECK_FALSE(integer_in(Json(18446744073709551615ULL)));
}
