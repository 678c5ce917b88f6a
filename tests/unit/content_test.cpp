#include "protocol/content.hpp"

#include <doctest/doctest.h>

using namespace ddipp::protocol;

namespace {

// Parses, writes and compares: nothing that a peer sent is lost or changed.
template <class T>
void round_trip(const char* text) {
  CAPTURE(text);
  const Json json = Json::parse(text);
  const auto content = parse_content<T>(json);
  REQUIRE(content);
  CHECK(Json(*content) == json);
}

}  // namespace

TEST_CASE("content is written as it was read") {
  round_trip<RegistrationRequest>(R"({"uuid": "u"})");
  round_trip<RegistrationRequest>(R"({"uuid": "u", "id": 3})");
  round_trip<RegistrationReply>(
      R"({"status": "ok", "id": 3, "hb_period": 3000, "connection_info": {"mux": 1}})");
  round_trip<UnregistrationRequest>(R"({"id": 3})");
  round_trip<RegistrationNotification>(R"({"id": 3, "uuid": "u"})");
  round_trip<UnregistrationNotification>(R"({"id": 3, "uuid": "u"})");
  round_trip<ShutdownNotification>("{}");
  round_trip<ConnectionRequest>("{}");
  round_trip<ConnectionReply>(R"({"status": "ok", "engines": {"0": "u", "1": "v"}})");
  round_trip<QueueRequest>(R"({"targets": [0, 1], "verbose": true})");
  round_trip<LoadRequest>(R"({"targets": null})");
  round_trip<ResultRequest>(R"({"msg_ids": ["a"], "status_only": true})");
  round_trip<HistoryRequest>("{}");
  round_trip<HistoryReply>(R"({"status": "ok", "history": ["a"]})");
  round_trip<DbRequest>(R"({"query": {"msg_id": "a"}, "keys": ["started"]})");
  round_trip<DbReply>(
      R"({"status": "ok", "records": [{}], "buffer_lens": [0], "result_buffer_lens": null})");
  round_trip<PurgeRequest>(R"({"msg_ids": "all", "engine_ids": [1]})");
  round_trip<ResubmitRequest>(R"({"msg_ids": ["a"]})");
  round_trip<ResubmitReply>(R"({"status": "ok", "resubmitted": {"a": "b"}})");
  round_trip<ShutdownRequest>(R"({"restart": true})");
  round_trip<ShutdownReply>(R"({"status": "ok", "restart": false})");
  round_trip<ApplyRequest>("{}");
  round_trip<ExecuteRequest>(
      R"({"code": "1", "silent": true, "store_history": false, "allow_stdin": false,
          "stop_on_error": true, "user_expressions": {"a": "b"}})");
  round_trip<OkReply>(R"({"status": "ok"})");
  round_trip<ErrorContent>(
      R"({"status": "error", "ename": "E", "evalue": "v", "traceback": ["t"],
          "engine_info": {"engine_id": 0}})");
  round_trip<AbortRequest>(R"({"msg_ids": ["a", "b"]})");
  round_trip<ClearRequest>("{}");
  round_trip<InterruptRequest>("{}");
  round_trip<SignalRequest>(R"({"sig": 2})");
  round_trip<SignalRequest>(R"({"sig": "SIGINT"})");
  round_trip<StreamContent>(R"({"name": "stdout", "text": "x"})");
  round_trip<StatusContent>(R"({"execution_state": "idle"})");
  round_trip<ExecuteInput>(R"({"code": "1", "execution_count": 3})");
  round_trip<ExecuteResult>(
      R"({"data": {"text/plain": "1"}, "metadata": {}, "execution_count": 3})");
  round_trip<DisplayData>(R"({"data": {"text/html": "x"}, "metadata": {}, "transient": {}})");
  round_trip<ErrorOutput>(R"({"ename": "E", "evalue": "v", "traceback": ["t"]})");
  round_trip<DataMessage>(R"({"keys": ["a"]})");
  round_trip<TaskDestination>(R"({"msg_id": "a", "engine_id": "u"})");
  round_trip<NewHeart>(R"({"hearts": ["u"]})");
  round_trip<StoppedHeart>(R"({"hearts": ["u"]})");
}

TEST_CASE("a single msg_id stands for a list") {
  CHECK(parse_content<AbortRequest>(Json{{"msg_ids", "a"}})->msg_ids ==
        std::vector<std::string>{"a"});
  CHECK(parse_content<AbortRequest>(Json{{"msg_ids", nullptr}})->msg_ids.empty());
}

TEST_CASE("a silent request stores no history unless it says so") {
  CHECK_FALSE(parse_content<ExecuteRequest>(Json{{"code", ""}, {"silent", true}})->store_history);
  CHECK(parse_content<ExecuteRequest>(Json{{"code", ""}})->store_history);
}

TEST_CASE("missing and ill-typed entries are reported") {
  CHECK_FALSE(parse_content<RegistrationRequest>(Json::object()));
  CHECK_FALSE(parse_content<RegistrationRequest>(Json{{"uuid", 3}}));
  CHECK_FALSE(parse_content<UnregistrationRequest>(Json{{"id", "x"}}));
  CHECK_FALSE(parse_content<ConnectionRequest>(Json("text")));
  CHECK_FALSE(parse_content<SignalRequest>(Json(nullptr)));
  CHECK_FALSE(parse_content<AbortRequest>(Json{{"msg_ids", {1, 2}}}));
}
