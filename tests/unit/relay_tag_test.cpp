#include "protocol/relay_tag.hpp"

#include <array>
#include <vector>

#include <doctest/doctest.h>

using namespace ddipp::protocol;

namespace {

Session make(const std::string& key) {
  auto session = Session::make({key, "hmac-sha256", Packing::json, "session-id"});
  REQUIRE(session);
  return std::move(*session);
}

const std::vector<std::string_view> kBuffers{"ab", "c"};

}  // namespace

TEST_CASE("a route names its engine and is made with the key only") {
  const Session session = make("key");
  const std::string route = make_route(session, "u-1");
  CHECK(is_route(route));
  CHECK_FALSE(is_route("u-1"));
  CHECK(uuid_of(route) == "u-1");
  CHECK(uuid_of("u-1") == "u-1");
  CHECK(is_genuine(session, route));
  CHECK_FALSE(is_genuine(make("other"), route));
  CHECK_FALSE(is_genuine(session, "u-1"));
  CHECK_FALSE(is_genuine(session, "u-1."));
  CHECK_FALSE(is_genuine(session, "u-2" + route.substr(3)));
}

TEST_CASE("a tag is good for one message to one engine, once") {
  const Session session = make("key");
  RelayTags tags(RelayChannel::mux, 5);
  RelayCheck check;
  const std::string code = buffers_code(session, kBuffers);
  const std::string tag = tags.make(session, "u-1", "signature", code);
  CHECK(is_relay_tag(tag));
  CHECK_FALSE(check.accept(session, tag, "u-2", "signature", code));
  CHECK_FALSE(check.accept(session, tag, "u-1", "another", code));
  CHECK_FALSE(check.accept(session, tag, "u-1", "signature", ""));
  CHECK_FALSE(check.accept(make("other"), tag, "u-1", "signature", code));
  CHECK(check.accept(session, tag, "u-1", "signature", code));
  CHECK_FALSE(check.accept(session, tag, "u-1", "signature", code));
  CHECK(check.accept(session, tags.make(session, "u-1", "signature", code), "u-1", "signature",
                     code));
}

TEST_CASE("channels count apart, and a later controller goes on while an earlier one is over") {
  const Session session = make("key");
  RelayCheck check;
  RelayTags mux(RelayChannel::mux, 5);
  RelayTags task(RelayChannel::task, 5);
  RelayTags later(RelayChannel::mux, 6);
  const auto accepted = [&](RelayTags& tags) {
    return check.accept(session, tags.make(session, "u", "s", ""), "u", "s", "");
  };
  CHECK(accepted(mux));
  CHECK(accepted(mux));
  CHECK(accepted(task));
  CHECK(accepted(later));
  CHECK_FALSE(accepted(mux));
  CHECK(accepted(later));
}

TEST_CASE("buffers can't be divided otherwise, and tags can't be made up") {
  const Session session = make("key");
  const std::vector<std::string_view> others{"a", "bc"};
  CHECK(buffers_code(session, kBuffers) != buffers_code(session, others));
  CHECK(buffers_code(session, {}).empty());
  RelayCheck check;
  for (const char* tag : {"", "ddipp1", "ddipp1\xff", "ddipp19"}) {
    CHECK_FALSE(check.accept(session, tag + std::string(200, '0'), "u", "s", ""));
  }
}
