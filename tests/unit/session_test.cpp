#include "protocol/session.hpp"

#include <array>

#include <doctest/doctest.h>

using namespace ddipp::protocol;

namespace {

Session make(const std::string& key, Packing packing = Packing::json) {
  auto session = Session::make({key, "hmac-sha256", packing, "session-id"});
  REQUIRE(session);
  return std::move(*session);
}

Message request(Session& session) {
  Message message;
  message.identities = {"peer"};
  message.header = session.make_header("apply_request", Timestamp{});
  message.content = {{"a", 1}};
  message.buffers = {std::string("\0\1", 2), ""};
  return message;
}

std::vector<std::string_view> views(const std::vector<std::string>& frames) {
  return {frames.begin(), frames.end()};
}

OpenError open_error(Session& session, const std::vector<std::string>& frames) {
  const auto opened = session.open(views(frames));
  REQUIRE_FALSE(opened);
  return opened.error();
}

}  // namespace

TEST_CASE("HMAC-SHA256 gives the digest of RFC 4231, test case 2") {
  const auto hmac = Hmac::make("Jefe", "hmac-sha256");
  REQUIRE(hmac);
  const std::array<std::string_view, 2> parts{"what do ya want ", "for nothing?"};
  CHECK(hmac->sign(parts) == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST_CASE("an unknown signature scheme is one line") {
  CHECK(Hmac::make("k", "sha256").error() ==
        "signature scheme 'sha256' is not of the form hmac-<digest>");
  CHECK(Hmac::make("k", "hmac-nonsense").error() ==
        "signature scheme 'hmac-nonsense' is not supported by OpenSSL");
}

TEST_CASE("what one session seals another with the same key opens") {
  for (const auto packing : {Packing::json, Packing::msgpack}) {
    Session sender = make("secret", packing);
    Session receiver = make("secret", packing);
    const Message message = request(sender);
    const auto opened = receiver.open(views(sender.seal(message)));
    REQUIRE(opened);
    CHECK(opened->identities == message.identities);
    CHECK(opened->header.msg_id == message.header.msg_id);
    CHECK(opened->header.msg_type == "apply_request");
    CHECK(opened->content == message.content);
    CHECK(opened->buffers == message.buffers);
  }
}

TEST_CASE("another key, a changed frame and a wrong length are wrong signatures") {
  Session sender = make("secret");
  const auto frames = sender.seal(request(sender));
  Session other = make("another");
  CHECK(open_error(other, frames) == OpenError::wrong_signature);

  Session receiver = make("secret");
  for (std::size_t part = 3; part <= 6; ++part) {
    auto changed = frames;
    changed[part] += " ";
    CHECK(open_error(receiver, changed) == OpenError::wrong_signature);
  }
  auto truncated = frames;
  truncated[2].resize(10);
  CHECK(open_error(receiver, truncated) == OpenError::wrong_signature);
  truncated[2].clear();
  CHECK(open_error(receiver, truncated) == OpenError::wrong_signature);
}

TEST_CASE("a message that comes twice is refused the second time") {
  Session sender = make("secret");
  Session receiver = make("secret");
  const auto frames = sender.seal(request(sender));
  CHECK(receiver.open(views(frames)));
  CHECK(open_error(receiver, frames) == OpenError::replayed);
}

TEST_CASE("without a key nothing is signed and a message may come twice") {
  Session sender = make("");
  Session receiver = make("");
  const auto frames = sender.seal(request(sender));
  CHECK(frames[2].empty());
  CHECK(receiver.open(views(frames)));
  CHECK(receiver.open(views(frames)));
}

TEST_CASE("malformed messages are told apart") {
  Session session = make("");
  CHECK(open_error(session, {}) == OpenError::no_delimiter);
  CHECK(open_error(session, {"a", "b"}) == OpenError::no_delimiter);
  CHECK(open_error(session, {"<IDS|MSG>"}) == OpenError::too_few_frames);
  CHECK(open_error(session, {"<IDS|MSG>", "", "{}", "{}", "{}"}) == OpenError::too_few_frames);
  CHECK(open_error(session, {"<IDS|MSG>", "", "{", "{}", "{}", "{}"}) == OpenError::bad_packing);
  CHECK(open_error(session, {"<IDS|MSG>", "", "{}", "{}", "{}", "{}"}) == OpenError::bad_header);
  CHECK(open_error(session, {"<IDS|MSG>", "", "[]", "{}", "{}", "{}"}) == OpenError::bad_header);
}

TEST_CASE("times are written in ISO 8601 with microseconds") {
  using std::chrono::microseconds;
  CHECK(iso8601(Timestamp(microseconds(0))) == "1970-01-01T00:00:00.000000Z");
  CHECK(iso8601(Timestamp(microseconds(1769862896789012))) == "2026-01-31T12:34:56.789012Z");
  CHECK(iso8601(Timestamp(microseconds(-1))) == "1969-12-31T23:59:59.999999Z");
}

TEST_CASE("a uuid shows its version and variant") {
  std::array<std::uint8_t, 16> bytes{};
  CHECK(make_uuid(bytes) == "00000000-0000-4000-8000-000000000000");
  bytes.fill(0xFF);
  CHECK(make_uuid(bytes) == "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

TEST_CASE("message ids of a session differ") {
  Session session = make("");
  CHECK(session.make_header("a", Timestamp{}).msg_id !=
        session.make_header("a", Timestamp{}).msg_id);
}

TEST_CASE("the reply to a request has its name") {
  CHECK(reply_type("execute_request") == "execute_reply");
  CHECK(reply_type("comm_msg") == "error");
}
