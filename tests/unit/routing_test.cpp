#include "controller/routing.hpp"

#include <doctest/doctest.h>

using namespace ddipp::controller;
using ddipp::protocol::Packing;

namespace {

std::vector<std::string_view> request(std::string_view header) {
  return {"engine", "client", "<IDS|MSG>", "sig", header, "{}", "{}", "{}", "buffer"};
}

}  // namespace

TEST_CASE("the identities of client and engine change places both ways") {
  std::vector<std::string> frames{"client", "engine", "rest"};
  CHECK(swap_identities(frames));
  CHECK(frames == std::vector<std::string>{"engine", "client", "rest"});
  std::vector<std::string> short_frames{"client", "engine"};
  CHECK_FALSE(swap_identities(short_frames));
}

TEST_CASE("a request that can't be delivered is answered in its own type") {
  const auto reply = undeliverable_reply(request(R"({"msg_id": "m", "msg_type": "apply_request"})"),
                                         Packing::json, "it is gone");
  REQUIRE(reply);
  CHECK(reply->client == "client");
  CHECK(reply->header_type == "apply_reply");
  CHECK(reply->parent_header["msg_id"] == "m");
  CHECK(reply->metadata["engine"] == "engine");
  CHECK(reply->content["ename"] == "EngineError");
  CHECK(reply->content["evalue"] == "it is gone");
}

TEST_CASE("what is no request gets no answer") {
  CHECK_FALSE(undeliverable_reply(request(R"({"msg_id": "m", "msg_type": "comm_msg"})"),
                                  Packing::json, ""));
  CHECK_FALSE(undeliverable_reply(request("garbage"), Packing::json, ""));
  const std::vector<std::string_view> no_delimiter{"engine", "client", "x"};
  CHECK_FALSE(undeliverable_reply(no_delimiter, Packing::json, ""));
}

TEST_CASE("the presence topic names an engine and where it is") {
  CHECK(parse_presence_topic("engine:local:abc")->uuid == "abc");
  CHECK(parse_presence_topic("engine:local:abc")->local);
  CHECK_FALSE(parse_presence_topic("engine:remote:abc")->local);
  CHECK_FALSE(parse_presence_topic(""));
  CHECK_FALSE(parse_presence_topic("engine:abc"));
}
