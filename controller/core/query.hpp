// Mongo-style questions about records, as Client.db_query() sends them:
//   {"msg_id": {"$in": ["a", "b"]}, "completed": null, "submitted": {"$gte": "2026-01-31T..."}}
// Pure.
#pragma once

#include <string>
#include <vector>

#include "controller/core/record.hpp"
#include "protocol/result.hpp"

namespace ddipp::controller {

enum class Operator { eq, ne, lt, gt, lte, gte, in, nin, all, mod, exists, glob };

struct Condition {
  std::string key;  // one of kRecordKeys
  Operator op = Operator::eq;
  protocol::Json value;
};

using Query = std::vector<Condition>;  // all have to hold; none: every record

// Fails with one line that names what is wrong.
Result<Query> parse_query(const protocol::Json& json);

// Values of different types are never less or greater; null is equal to null only.
bool matches(const Query& query, const Record& record);

}  // namespace ddipp::controller
