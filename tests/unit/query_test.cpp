#include "controller/core/query.hpp"

#include <doctest/doctest.h>

#include "records.hpp"

using namespace ddipp::controller;
using ddipp::protocol::Json;
using ddipp::test::make_record;
using ddipp::test::make_result;

namespace {

bool asks(const char* query, const Record& record) {
  const auto parsed = parse_query(Json::parse(query));
  REQUIRE_MESSAGE(parsed, query);
  return matches(*parsed, record);
}

}  // namespace

TEST_CASE("each operator means what Mongo and ipyparallel mean by it") {
  const auto record = make_record("m1", "engine", Queue::task);
  const Record& r = *record;
  CHECK(asks(R"({})", r));
  CHECK(asks(R"({"msg_id": "m1", "queue": "task"})", r));
  CHECK_FALSE(asks(R"({"msg_id": "m1", "queue": "mux"})", r));
  CHECK(asks(R"({"msg_id": {"$eq": "m1"}})", r));
  CHECK(asks(R"({"msg_id": {"$ne": ""}})", r));
  CHECK(asks(R"({"msg_id": {"$lt": "m2", "$gt": "m0", "$lte": "m1", "$gte": "m1"}})", r));
  CHECK_FALSE(asks(R"({"msg_id": {"$gt": "m1"}})", r));
  CHECK(asks(R"({"msg_id": {"$in": ["m0", "m1"]}})", r));
  CHECK_FALSE(asks(R"({"msg_id": {"$nin": ["m0", "m1"]}})", r));
  CHECK(asks(R"({"msg_id": {"$glob": "m[0-9]"}})", r));
  CHECK_FALSE(asks(R"({"completed": {"$glob": "*"}})", r));
  CHECK(asks(R"({"completed": null, "engine_uuid": {"$exists": true}})", r));
  CHECK(asks(R"({"completed": {"$exists": false}})", r));
  CHECK(asks(R"({"completed": {"$exists": ""}})", r));  // false in Python
  CHECK_FALSE(asks(R"({"completed": {"$ne": null}})", r));
  CHECK(asks(R"({"label": "training"})", r));
  CHECK(asks(R"({"msg_id": {"$all": ["xm1x", ["m1"]]}})", r));
  CHECK_FALSE(asks(R"({"msg_id": {"$all": ["m2"]}})", r));
  CHECK(asks(R"({"buffers": {"$mod": [2, 1]}})", r));  // it has one
  CHECK(asks(R"({"buffers": {"$mod": [-2, -1]}})", r));
}

TEST_CASE("a text as the operand of a test for membership is as in Python") {
  const auto record = make_record("m1");
  CHECK(asks(R"({"msg_id": {"$in": "xm1x"}})", *record));
  CHECK_FALSE(asks(R"({"msg_id": {"$in": "m"}})", *record));
  CHECK(asks(R"({"label": {"$nin": ""}})", *record));
  CHECK_FALSE(asks(R"({"completed": {"$in": ""}})", *record));
  CHECK_FALSE(asks(R"({"completed": {"$nin": ""}})", *record));
  CHECK(asks(R"({"completed": {"$nin": ["a"]}})", *record));
  CHECK(asks(R"({"msg_id": {"$all": ""}})", *record));
  CHECK_FALSE(asks(R"({"msg_id": {"$all": "m1"}})", *record));
}

TEST_CASE("a pattern has no escapes, as with Python's fnmatch") {
  const auto record = make_record("a\\b");
  record->msg_id = "a\\b";
  CHECK(asks(R"({"msg_id": {"$glob": "a\\?"}})", *record));
}

TEST_CASE("null is neither less nor greater than anything, and types don't mix") {
  const auto record = make_record("m1");
  CHECK_FALSE(asks(R"({"completed": {"$lt": "2030-01-01T00:00:00Z"}})", *record));
  CHECK_FALSE(asks(R"({"completed": {"$gte": null}})", *record));
  CHECK_FALSE(asks(R"({"msg_id": {"$lt": 5}})", *record));
}

TEST_CASE("dates are compared as instants") {
  const auto record = make_record("m1");
  record->result = make_result();
  CHECK(asks(R"({"submitted": "2026-01-31T13:00:00.000000+01:00"})", *record));
  CHECK(asks(R"({"started": {"$gt": "2026-01-31T12:00:00Z"}})", *record));
  CHECK(asks(R"({"completed": {"$in": ["2026-01-31T12:00:01.5Z"]}})", *record));
}

TEST_CASE("a bad query is refused with a line that names what is wrong") {
  const auto why = [](const char* query) {
    const auto parsed = parse_query(Json::parse(query));
    return parsed ? std::string() : parsed.error();
  };
  CHECK(why("[]") == "a query is a map of keys to conditions");
  CHECK(why(R"({"nothing": 1})") == "records have no key 'nothing'");
  CHECK(why(R"({"msg_id": {"$near": 1}})") == "unsupported operator: '$near'");
  CHECK(why(R"({"msg_id": {"$in": 1}})") == "operator '$in' needs a list or a text");
  CHECK(why(R"({"msg_id": {"$mod": [0, 1]}})") == "operator '$mod' needs [divisor, remainder]");
  CHECK(why(R"({"msg_id": {"$glob": 1}})") == "operator '$glob' needs a text");
}
