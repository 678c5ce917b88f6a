#include "controller/core/query.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <fnmatch.h>
#include <optional>

namespace ddipp::controller {

using protocol::Json;

namespace {

struct NamedOperator {
  std::string_view name;
  Operator op;
};

constexpr std::array<NamedOperator, 12> kOperators{{{"$eq", Operator::eq},
                                                    {"$ne", Operator::ne},
                                                    {"$lt", Operator::lt},
                                                    {"$gt", Operator::gt},
                                                    {"$lte", Operator::lte},
                                                    {"$gte", Operator::gte},
                                                    {"$in", Operator::in},
                                                    {"$nin", Operator::nin},
                                                    {"$all", Operator::all},
                                                    {"$mod", Operator::mod},
                                                    {"$exists", Operator::exists},
                                                    {"$glob", Operator::glob}}};

// Dates compare as instants, whatever their offset; this is the form that field() gives them.
Json normalized(const std::string& key, Json value) {
  if (!is_date_key(key)) return value;
  if (value.is_array()) {
    for (Json& item : value) item = normalized(key, std::move(item));
  } else if (value.is_string()) {
    if (const auto time = protocol::parse_iso8601(value.get_ref<const std::string&>())) {
      return protocol::iso8601(*time);
    }
  }
  return value;
}

// What is wrong with the operand, or nothing.
std::optional<std::string> fault(Operator op, const Json& value) {
  switch (op) {
    case Operator::in:
    case Operator::nin:
    case Operator::all:
      if (!value.is_array() && !value.is_string()) return "needs a list or a text";
      break;
    case Operator::mod:
      if (!value.is_array() || value.size() != 2 || !value[0].is_number_integer() ||
          !value[1].is_number_integer() || value[0] == 0) {
        return "needs [divisor, remainder]";
      }
      break;
    case Operator::glob:
      if (!value.is_string()) return "needs a text";
      break;
    default:
      break;
  }
  return std::nullopt;
}

Result<Condition> make_condition(const std::string& key, const std::string& name, Json value) {
  const auto* found = std::find_if(kOperators.begin(), kOperators.end(),
                                   [&](const auto& entry) { return entry.name == name; });
  if (found == kOperators.end()) return Failure{"unsupported operator: '" + name + "'"};
  if (const auto why = fault(found->op, value)) return Failure{"operator '" + name + "' " + *why};
  return Condition{key, found->op, normalized(key, std::move(value))};
}

bool comparable(const Json& a, const Json& b) {
  return (a.is_number() && b.is_number()) || (a.is_string() && b.is_string());
}

// In a list, or of a text a part: ipyparallel asks with Python's `in`.
bool contains(const Json& whole, const Json& value) {
  if (!whole.is_string()) return std::find(whole.begin(), whole.end(), value) != whole.end();
  return value.is_string() && whole.get_ref<const std::string&>().find(
                                  value.get_ref<const std::string&>()) != std::string::npos;
}

// What Python's `not in` says, but that nothing can be said of null and a text.
bool misses(const Json& whole, const Json& value) {
  return (!whole.is_string() || value.is_string()) && !contains(whole, value);
}

// A text as the list of its characters, as Python iterates over it.
Json characters(const std::string& text) {
  Json list = Json::array();
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    for (++end; end < text.size() && (text[end] & 0xC0) == 0x80;) ++end;
    list.push_back(text.substr(begin, end - begin));
  }
  return list;
}

// ipyparallel: every member of the operand holds the value.
bool in_all(const Json& value, const Json& operand) {
  const Json members =
      operand.is_string() ? characters(operand.get_ref<const std::string&>()) : operand;
  return std::all_of(members.begin(), members.end(), [&](const Json& member) {
    return (member.is_string() || member.is_array()) && contains(member, value);
  });
}

bool congruent(const Json& value, std::int64_t divisor, std::int64_t remainder) {
  if (!value.is_number_integer()) return false;
  if (divisor == -1) return remainder == 0;  // min / -1 overflows
  const auto left = value.get<std::int64_t>() % divisor;
  // Python's remainder has the sign of the divisor.
  return (left != 0 && (left < 0) != (divisor < 0) ? left + divisor : left) == remainder;
}

bool truthy(const Json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

bool matches_glob(const Json& value, const Json& pattern) {
  return value.is_string() &&
         fnmatch(pattern.get_ref<const std::string&>().c_str(),
                 value.get_ref<const std::string&>().c_str(), FNM_NOESCAPE) == 0;
}

bool holds(const Condition& condition, const Json& value) {
  const Json& wanted = condition.value;
  switch (condition.op) {
    case Operator::eq:
      return value == wanted;
    case Operator::ne:
      return value != wanted;
    case Operator::lt:
      return comparable(value, wanted) && value < wanted;
    case Operator::gt:
      return comparable(value, wanted) && wanted < value;
    case Operator::lte:
      return comparable(value, wanted) && value <= wanted;
    case Operator::gte:
      return comparable(value, wanted) && wanted <= value;
    case Operator::in:
      return contains(wanted, value);
    case Operator::nin:
      return misses(wanted, value);
    case Operator::all:
      return in_all(value, wanted);
    case Operator::mod:
      return congruent(value, wanted[0].get<std::int64_t>(), wanted[1].get<std::int64_t>());
    case Operator::exists:
      return value.is_null() != truthy(wanted);
    case Operator::glob:
      return matches_glob(value, wanted);
  }
  return false;
}

}  // namespace

Result<Query> parse_query(const Json& json) {
  if (!json.is_object()) return Failure{std::string("a query is a map of keys to conditions")};
  Query query;
  for (const auto& [key, value] : json.items()) {
    if (!is_record_key(key)) return Failure{"records have no key '" + key + "'"};
    if (!value.is_object()) {
      query.push_back({key, Operator::eq, normalized(key, value)});
      continue;
    }
    for (const auto& [name, operand] : value.items()) {
      auto condition = make_condition(key, name, operand);
      if (!condition) return Failure{condition.error()};
      query.push_back(std::move(*condition));
    }
  }
  return query;
}

bool matches(const Query& query, const Record& record) {
  return std::all_of(query.begin(), query.end(), [&](const Condition& condition) {
    return holds(condition, field(record, condition.key));
  });
}

}  // namespace ddipp::controller
