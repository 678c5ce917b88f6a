#include "protocol/fields.hpp"

#include <doctest/doctest.h>

#include "protocol/iso8601.hpp"

using namespace ddipp::protocol;

TEST_CASE("text fields are read at the top level only, in any packing and order") {
  const Json json{{"a", {{"msg_id", "inner"}}},
                  {"msg_id", "m"},
                  {"list", {"msg_id", 1}},
                  {"msg_type", "t"},
                  {"z", nullptr}};
  for (const Packing packing : {Packing::json, Packing::msgpack}) {
    std::string id;
    std::string type;
    CHECK(read_texts(pack(json, packing), packing, {{"msg_id", id}, {"msg_type", type}}));
    CHECK(id == "m");
    CHECK(type == "t");
  }
}

TEST_CASE("what is missing, no text or no map reads as nothing") {
  std::string id = "old";
  CHECK(read_texts(R"({"msg_id": 7})", Packing::json, {{"msg_id", id}}));
  CHECK(id.empty());
  CHECK(read_texts(R"({"msg_id": ["x"]})", Packing::json, {{"msg_id", id}}));
  CHECK(id.empty());
  CHECK(read_texts("{}", Packing::json, {{"msg_id", id}}));
  CHECK(read_texts(R"({"a": [true], "msg_id": false})", Packing::json, {{"msg_id", id}}));
  CHECK(id == "false");
  id.clear();
  for (const char* text :
       {"", "[]", R"(["msg_id", "x"])", R"("msg_id")", "7", "{\"msg_id\": ", "\xff"}) {
    CHECK_FALSE(read_texts(text, Packing::json, {{"msg_id", id}}));
    CHECK(id.empty());
  }
  CHECK_FALSE(read_texts("\xc1", Packing::msgpack, {{"msg_id", id}}));
}

TEST_CASE("the reading stops when all fields are found") {
  std::string id;
  CHECK(read_texts(R"({"msg_id": "m", garbage)", Packing::json, {{"msg_id", id}}));
  CHECK(id == "m");
}

TEST_CASE("dates are read in every form that Jupyter writes and mean the same instant") {
  const auto expected = parse_iso8601("2026-01-31T12:34:56.789012Z");
  REQUIRE(expected);
  CHECK(iso8601(*expected) == "2026-01-31T12:34:56.789012Z");
  for (const char* text : {"2026-01-31T12:34:56.789012", "2026-01-31T12:34:56.789012+00:00",
                           "2026-01-31T13:34:56.789012+01:00", "2026-01-31T07:04:56.789012-0530",
                           "2026-01-31 12:34:56.789012Z"}) {
    CHECK(parse_iso8601(text) == expected);
  }
  CHECK(iso8601(*parse_iso8601("2026-01-31T12:34:56Z")) == "2026-01-31T12:34:56.000000Z");
  CHECK(iso8601(*parse_iso8601("2026-01-31T12:34:56.5Z")) == "2026-01-31T12:34:56.500000Z");
  CHECK(iso8601(*parse_iso8601("1969-12-31T23:59:59.25Z")) == "1969-12-31T23:59:59.250000Z");
}

TEST_CASE("what is no date is none") {
  for (const char* text :
       {"", "yesterday", "2026-01-31", "2026-13-01T00:00:00Z", "2026-01-31T12:34:56.Z",
        "2026-01-31T12:34:56.1234567890Z", "2026-01-31T12:34:56ZZ", "2026-01-31T12:34:56+1",
        "0122-02-01T00:00:00Z", "-026-01-31T12:34:56"}) {
    CHECK_MESSAGE(!parse_iso8601(text), text);
  }
}
