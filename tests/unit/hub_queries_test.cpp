#include "controller/core/hub_queries.hpp"

#include <doctest/doctest.h>

#include "controller/core/memory_store.hpp"
#include "records.hpp"

using namespace ddipp::controller;
using namespace ddipp::protocol;
using ddipp::test::make_record;
using ddipp::test::make_result;

namespace {

struct World {
  Registry registry;
  MemoryStore store{MemoryStoreOptions{}};
  Ledger ledger{store};
  int made = 0;
  HubQueries queries{registry, ledger, store, [this](const std::string& type) {
                       return Header{"new" + std::to_string(++made), type, "hub", "u",
                                     "2026-02-01T00:00:00.000000Z",  "5.4"};
                     }};

  World() {
    registry.restore({0, "e0"});
    registry.restore({1, "e1"});
  }

  Answer ask(const std::string& type, Json content) {
    Message message;
    message.header.msg_type = type;
    message.content = std::move(content);
    auto answer = queries.answer(message);
    REQUIRE(answer);
    return std::move(*answer);
  }

  void run(const std::string& id, const std::string& engine) {
    ledger.submit(make_record(id, engine));
    ledger.finish(id, make_result("result of " + id), Timestamp{});
  }
};

}  // namespace

TEST_CASE("queue_status counts, and lists the ids when verbose") {
  World world;
  world.ledger.submit(make_record("a", "e0"));
  world.ledger.submit(make_record("t", "", Queue::task));
  world.ledger.submit(make_record("u", "", Queue::task));
  world.ledger.assign("t", "e1");
  world.run("done", "e0");
  const auto counts = world.ask("queue_request", {{"targets", nullptr}, {"verbose", false}});
  CHECK(counts.type == "queue_reply");
  CHECK(counts.content["0"] == Json{{"queue", 1}, {"tasks", 0}, {"completed", 1}});
  CHECK(counts.content["1"] == Json{{"queue", 0}, {"tasks", 1}, {"completed", 0}});
  CHECK(counts.content["unassigned"] == 1);
  const auto ids = world.ask("queue_request", {{"targets", {0}}, {"verbose", true}});
  CHECK(ids.content["0"]["queue"] == Json{"a"});
  CHECK(ids.content["0"]["completed"] == Json{"done"});
  CHECK(ids.content["unassigned"] == Json{"u"});
  CHECK_FALSE(ids.content.contains("1"));
  CHECK(world.ask("load_request", {{"targets", {"e1", 0}}}).content ==
        Json{{"status", "ok"}, {"0", 1}, {"1", 1}});
  const auto bad = world.ask("queue_request", {{"targets", {5}}});
  CHECK(bad.type == "hub_error");
  CHECK(bad.content["ename"] == "IndexError");
}

TEST_CASE("results come with their buffers in the order of the sorted ids") {
  World world;
  world.run("b", "e0");
  world.run("a", "e1");
  world.ledger.submit(make_record("c", "e0"));
  const auto answer =
      world.ask("result_request", {{"msg_ids", {"c", "b", "a", "b"}}, {"status_only", false}});
  CHECK(answer.content["status"] == "ok");
  CHECK(answer.content["completed"] == Json{"a", "b"});
  CHECK(answer.content["pending"] == Json{"c"});
  CHECK(answer.content["a"]["result_content"]["status"] == "ok");
  CHECK(answer.content["a"]["io"]["stdout"] == "");
  REQUIRE(answer.buffers.size() == 2);
  CHECK(answer.buffers[0].view() == "result of a");
  CHECK(answer.buffers[1].view() == "result of b");
  const auto status = world.ask("result_request", {{"msg_ids", {"a", "c"}}, {"status_only", true}});
  CHECK(status.content["completed"] == Json{"a"});
  CHECK_FALSE(status.content.contains("a"));
  CHECK(status.buffers.empty());
  CHECK(world.ask("result_request", {{"msg_ids", {"nobody"}}}).content["ename"] == "KeyError");
}

TEST_CASE("db_query leaves buffers out unless they are asked for") {
  World world;
  world.run("a", "e0");
  world.ledger.submit(make_record("b", "e1"));
  const auto all = world.ask("db_request", {{"query", Json::object()}, {"keys", nullptr}});
  CHECK(all.content["records"].size() == 2);
  CHECK_FALSE(all.content["records"][0].contains("buffers"));
  CHECK(all.content["records"][0]["engine_uuid"] == "e0");
  CHECK(all.content["buffer_lens"] == nullptr);
  CHECK(all.buffers.empty());
  const auto some = world.ask("db_request", {{"query", {{"msg_id", {{"$ne", ""}}}}},
                                             {"keys", {"result_buffers", "queue"}}});
  CHECK(some.content["records"][1] == Json{{"msg_id", "b"}, {"queue", "mux"}});
  CHECK(some.content["result_buffer_lens"] == Json{1, 0});
  REQUIRE(some.buffers.size() == 1);
  CHECK(some.buffers[0].view() == "result of a");
  CHECK(world.ask("db_request", {{"query", {{"x", 1}}}}).content["ename"] == "KeyError");
  CHECK(world.ask("db_request", {{"query", Json::object()}, {"keys", {"x"}}}).content["ename"] ==
        "KeyError");
}

TEST_CASE("purging drops what is finished and refuses what is pending") {
  World world;
  world.run("a", "e0");
  world.run("b", "e0");
  world.run("c", "e1");
  world.ledger.submit(make_record("p", "e0"));
  const auto history = [&] {
    return world.ask("history_request", Json::object()).content["history"];
  };
  CHECK(world.ask("purge_request", {{"msg_ids", {"a", "p"}}}).content["ename"] == "IndexError");
  CHECK(world.ask("purge_request", {{"engine_ids", {9}}}).content["ename"] == "IndexError");
  CHECK(history().size() == 4);
  CHECK(world.ask("purge_request", {{"msg_ids", {"a"}}}).content["status"] == "ok");
  CHECK(history() == Json{"b", "c", "p"});
  CHECK(world.ask("purge_request", {{"msg_ids", Json::array()}, {"engine_ids", {0}}})
            .content["status"] == "ok");
  CHECK(history() == Json{"c", "p"});
  world.ask("purge_request", {{"msg_ids", "all"}});
  CHECK(history() == Json{"p"});
}

TEST_CASE("a resubmitted request is a new task with all but its id and date") {
  World world;
  world.run("a", "e0");
  const auto answer = world.ask("resubmit_request", {{"msg_ids", {"a"}}});
  CHECK(answer.content["resubmitted"] == Json{{"a", "new1"}});
  REQUIRE(answer.resubmitted.size() == 1);
  const Record& copy = *answer.resubmitted[0];
  CHECK(copy.msg_id == "new1");
  CHECK(copy.queue == Queue::task);
  CHECK(copy.request.buffers[0].view() == "buffer of a");
  CHECK_FALSE(copy.finished());
  const Json header = field(copy, "header");
  CHECK(header["msg_id"] == "new1");
  CHECK(header["session"] == "s1");
  CHECK(field(*(*world.store.find({{"msg_id", Operator::eq, "a"}}, true))[0], "resubmitted") ==
        "new1");
  const auto missing = world.ask("resubmit_request", {{"msg_ids", {"a", "nobody"}}});
  CHECK(missing.content["ename"] == "KeyError");
  CHECK(missing.resubmitted.empty());
}
