// Bytes that stock ipyparallel sent and received, recorded by compat/record_messages.py.
#include <array>
#include <fstream>
#include <set>

#include <doctest/doctest.h>

#include "protocol/connection_file.hpp"
#include "protocol/content.hpp"
#include "protocol/session.hpp"

using namespace ddipp::protocol;

namespace {

std::string from_hex(const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

struct Recording {
  Json connection;
  std::vector<std::vector<std::string>> messages;
};

Recording load() {
  std::ifstream file(DDIPP_SOURCE_DIR "/tests/data/recorded_messages.json");
  const Json json = Json::parse(file);
  Recording recording{json.at("connection"), {}};
  for (const Json& message : json.at("messages")) {
    std::vector<std::string> frames;
    for (const Json& frame : message.at("frames")) frames.push_back(from_hex(frame));
    recording.messages.push_back(std::move(frames));
  }
  return recording;
}

Session session_of(const Recording& recording) {
  auto session = Session::make({recording.connection.at("key").get<std::string>(),
                                recording.connection.at("signature_scheme").get<std::string>(),
                                Packing::json, "test"});
  REQUIRE(session);
  return std::move(*session);
}

template <class T>
bool parses(const Message& message) {
  return message.header.msg_type != T::type || parse_content<T>(message.content);
}

bool content_parses(const Message& message) {
  if (message.content.value("status", "") == "error") {
    return bool(parse_content<ErrorContent>(message.content));
  }
  return parses<ConnectionReply>(message) && parses<RegistrationNotification>(message) &&
         parses<UnregistrationNotification>(message) && parses<QueueRequest>(message) &&
         parses<ResultRequest>(message) && parses<HistoryReply>(message) &&
         parses<DbRequest>(message) && parses<DbReply>(message) && parses<PurgeRequest>(message) &&
         parses<ExecuteRequest>(message) && parses<AbortRequest>(message) &&
         parses<ShutdownRequest>(message) && parses<ShutdownReply>(message) &&
         parses<StreamContent>(message) && parses<StatusContent>(message) &&
         parses<ExecuteInput>(message) && parses<ExecuteResult>(message) &&
         parses<ErrorOutput>(message);
}

}  // namespace

TEST_CASE("the stock controller's connection file is understood") {
  const auto client = parse_client_connection(load().connection);
  REQUIRE(client);
  CHECK(client->common.interface == "tcp://127.0.0.1");
  CHECK(client->task_scheme == "leastload");
  CHECK(client->mux > 0);
}

TEST_CASE("every recorded message has a good signature, a header and content that we know") {
  const Recording recording = load();
  Session session = session_of(recording);
  std::set<std::string> types;
  for (const auto& frames : recording.messages) {
    const auto opened = session.open(std::vector<std::string_view>(frames.begin(), frames.end()));
    REQUIRE_MESSAGE(opened, describe(opened.error()));
    types.insert(opened->header.msg_type);
    CHECK_MESSAGE(content_parses(*opened), opened->header.msg_type);
  }
  for (const char* type : {"apply_request", "apply_reply", "execute_reply", "connection_reply",
                           "stream", "error", "queue_reply", "unregistration_notification"}) {
    CHECK_MESSAGE(types.contains(type), type);
  }
}

TEST_CASE("a recorded message signed again by us has the same signature") {
  const Recording recording = load();
  const Session session = session_of(recording);
  for (const auto& frames : recording.messages) {
    const std::vector<std::string_view> views(frames.begin(), frames.end());
    const auto parts = session.reopen(views);
    REQUIRE(parts);
    const std::array<std::string_view, 4> signed_parts{parts->header, parts->parent_header,
                                                       parts->metadata, parts->content};
    CHECK(session.sign(signed_parts) == parts->signature);
  }
}

TEST_CASE("one flipped bit anywhere in the signed parts of a recorded message is noticed") {
  const Recording recording = load();
  Session session = session_of(recording);
  auto frames = recording.messages.front();
  const auto first = std::find(frames.begin(), frames.end(), kDelimiter) - frames.begin() + 2;
  for (auto part = first; part < first + 4; ++part) {
    auto changed = frames;
    changed[static_cast<std::size_t>(part)].back() ^= 1;
    const auto opened = session.open(std::vector<std::string_view>(changed.begin(), changed.end()));
    REQUIRE_FALSE(opened);
    CHECK(opened.error() == OpenError::wrong_signature);
  }
}
