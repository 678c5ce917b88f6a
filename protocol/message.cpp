#include "protocol/message.hpp"

#include <string_view>

namespace ddipp::protocol {
namespace {

std::string text_or_empty(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

void to_json(Json& json, const Header& header) {
  json = Json{{"msg_id", header.msg_id},   {"msg_type", header.msg_type},
              {"session", header.session}, {"username", header.username},
              {"date", header.date},       {"version", header.version}};
}

Result<Header> parse_header(const Json& json) {
  if (!json.is_object()) return Failure{std::string("the header is not an object")};
  Header header{text_or_empty(json, "msg_id"),  text_or_empty(json, "msg_type"),
                text_or_empty(json, "session"), text_or_empty(json, "username"),
                text_or_empty(json, "date"),    text_or_empty(json, "version")};
  if (header.msg_id.empty()) return Failure{std::string("the header has no msg_id")};
  if (header.msg_type.empty()) return Failure{std::string("the header has no msg_type")};
  return header;
}

std::string reply_type(const std::string& request_type) {
  constexpr std::string_view suffix = "_request";
  if (!request_type.ends_with(suffix)) return "error";
  return request_type.substr(0, request_type.size() - suffix.size()) + "_reply";
}

}  // namespace ddipp::protocol
