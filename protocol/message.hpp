// A Jupyter message in memory (Jupyter messaging, "general message format").
#pragma once

#include <string>
#include <vector>

#include "protocol/packing.hpp"
#include "protocol/result.hpp"

namespace ddipp::protocol {

inline constexpr const char* kProtocolVersion = "5.4";

struct Header {
  std::string msg_id;
  std::string msg_type;
  std::string session;  // identifies the sender
  std::string username;
  std::string date;     // ISO 8601 with offset
  std::string version;  // of the messaging protocol
};

void to_json(Json& json, const Header& header);

// `msg_id` and `msg_type` are required, the rest defaults to "".
Result<Header> parse_header(const Json& json);

struct Message {
  std::vector<std::string> identities;  // routing prefix, outermost first
  Header header;
  Json parent_header = Json::object();
  Json metadata = Json::object();
  Json content = Json::object();
  std::vector<std::string> buffers;
};

// "execute_request" -> "execute_reply"; a name without the suffix gives "error".
std::string reply_type(const std::string& request_type);

}  // namespace ddipp::protocol
