#include "controller/core/hub.hpp"

#include <doctest/doctest.h>

#include "controller/core/memory_store.hpp"
#include "records.hpp"

using namespace ddipp::controller;
using namespace ddipp::protocol;
using namespace std::chrono_literals;

namespace {

const TimePoint kStart{};

struct World {
  explicit World(HeartMonitorOptions heart = {1000ms, 2}, std::chrono::seconds linger = 0s)
      : hub(HubOptions{heart, 5000ms, linger, Json{{"mux", 7}},
                       [this](const std::string& type) {
                         return Header{
                             "fresh" + std::to_string(++made_ids), type, "hub", "", "", ""};
                       }},
            ledger, store, kStart) {}

  MemoryStore store{MemoryStoreOptions{}};
  Ledger ledger{store};
  int made_ids = 0;
  Hub hub;

  Message message(const std::string& type, Json content = Json::object()) {
    Message result;
    result.header.msg_id = "id-of-" + type;
    result.header.msg_type = type;
    result.content = std::move(content);
    return result;
  }

  void register_engine(const std::string& uuid) {
    hub.on_query(uuid, message("registration_request", {{"uuid", uuid}}), kStart);
    hub.on_pong(uuid, "1", kStart);
  }

  template <class T>
  std::vector<T> take() {
    std::vector<T> found;
    for (Action& action : hub.take_actions()) {
      if (auto* wanted = std::get_if<T>(&action)) found.push_back(std::move(*wanted));
    }
    return found;
  }
};

}  // namespace

TEST_CASE("an engine gets an id and the ports, and clients hear of it after its first pong") {
  World world;
  world.hub.on_query("peer", world.message("registration_request", {{"uuid", "u"}}), kStart);
  const auto replies = world.take<Reply>();
  REQUIRE(replies.size() == 1);
  CHECK(replies[0].identity == "peer");
  CHECK(replies[0].type == "registration_reply");
  CHECK(replies[0].parent_header["msg_id"] == "id-of-registration_request");
  const auto content = parse_content<RegistrationReply>(replies[0].content);
  REQUIRE(content);
  CHECK(content->id == 0);
  CHECK(content->hb_period == 1000);
  CHECK(content->connection_info == Json{{"mux", 7}});
  CHECK(world.hub.registry().engines().empty());

  world.hub.on_pong("u", "1", kStart);
  const auto notifications = world.take<Notify>();
  REQUIRE(notifications.size() == 1);
  CHECK(notifications[0].type == "registration_notification");
  CHECK(notifications[0].content == Json{{"id", 0}, {"uuid", "u"}});
  world.hub.on_pong("u", "1", kStart);
  CHECK(world.take<Notify>().empty());
}

TEST_CASE("a client is told the engines that are registered") {
  World world;
  world.register_engine("u");
  world.register_engine("v");
  world.take<Notify>();
  world.hub.on_query("client", world.message("connection_request"), kStart);
  const auto replies = world.take<Reply>();
  REQUIRE(replies.size() == 1);
  CHECK(replies[0].content["engines"] == Json{{"0", "u"}, {"1", "v"}});
}

TEST_CASE("leaving, shutdown and silence all end in one notification") {
  World world;
  for (const char* uuid : {"a", "b", "c"}) world.register_engine(uuid);
  world.take<Notify>();

  world.hub.on_query("a", world.message("unregistration_request", {{"id", 0}}), kStart);
  world.hub.on_query("a", world.message("unregistration_request", {{"id", 0}}), kStart);
  world.hub.on_engine_shutdown("b", kStart);
  world.hub.on_engine_shutdown("b", kStart);
  CHECK(world.take<Notify>().empty());  // what they still had to say may be on its way
  world.hub.tick(kStart + 50ms);
  const auto left = world.take<Notify>();
  REQUIRE(left.size() == 2);
  CHECK(left[0].type == "unregistration_notification");
  CHECK(left[0].content == Json{{"id", 0}, {"uuid", "a"}});
  CHECK(left[1].content == Json{{"id", 1}, {"uuid", "b"}});

  for (int beat = 1; beat <= 3; ++beat) world.hub.tick(kStart + beat * 1000ms);
  CHECK(world.take<Notify>().empty());
  world.hub.tick(kStart + 4000ms);
  const auto lost = world.take<Notify>();
  REQUIRE(lost.size() == 1);
  CHECK(lost[0].content == Json{{"id", 2}, {"uuid", "c"}});
}

TEST_CASE("a closed connection is forgiven for a moment and is death after it") {
  World world;
  world.register_engine("a");
  world.take<Notify>();
  world.hub.on_presence("a", false, false, kStart);
  world.hub.on_presence("a", true, false, kStart + 100ms);
  world.hub.tick(kStart + 600ms);
  CHECK(world.take<Notify>().empty());
  world.hub.on_presence("a", false, false, kStart + 600ms);
  CHECK(world.hub.next_deadline() <= kStart + 1100ms);
  world.hub.tick(kStart + 1100ms);
  CHECK(world.take<Notify>().size() == 1);
}

TEST_CASE("on the same machine a closed connection is death almost at once") {
  World world;
  world.register_engine("a");
  world.take<Notify>();
  world.hub.on_presence("a", false, true, kStart);
  world.hub.tick(kStart + 249ms);  // its supervisor may say why
  CHECK(world.take<Notify>().empty());
  world.hub.tick(kStart + 250ms);
  CHECK(world.take<Notify>().size() == 1);
}

TEST_CASE("a supervisor's report says why an engine is gone, and at once") {
  World world;
  world.register_engine("a");
  world.take<Notify>();
  const Json report{{"id", 0}, {"uuid", "a"}, {"reason", "it slipped"}, {"last_output", "oops"}};
  world.hub.on_presence("a", false, true, kStart);
  world.hub.on_query("s", world.message("unregistration_request", report), kStart + 1ms);
  CHECK(world.hub.next_deadline() <= kStart + 10ms);
  world.hub.tick(kStart + 10ms);
  const auto lost = world.take<EngineLost>();
  REQUIRE(lost.size() == 1);
  CHECK(lost[0].why == "it slipped\nIts last output was:\noops");
  // It is dead, not cut off.
  world.hub.on_presence("a", true, true, kStart + 20ms);
  CHECK(world.take<EngineJoined>().empty());
}

TEST_CASE("a report about another process of that id changes nothing") {
  World world;
  world.register_engine("a");
  const Json report{{"id", 0}, {"uuid", "z"}, {"reason", "it slipped"}};
  world.hub.on_query("s", world.message("unregistration_request", report), kStart);
  world.hub.tick(kStart + 100ms);
  CHECK(world.hub.registry().engines().size() == 1);
}

TEST_CASE("an engine that is started again gets its id though its end is still being told") {
  World world;
  world.register_engine("a");
  world.take<Notify>();
  const Json report{{"id", 0}, {"uuid", "a"}, {"reason", "it slipped"}};
  world.hub.on_query("s", world.message("unregistration_request", report), kStart);
  world.hub.on_query("b", world.message("registration_request", {{"uuid", "b"}, {"id", 0}}),
                     kStart);
  world.hub.on_pong("b", "1", kStart);
  const auto told = world.take<Notify>();
  REQUIRE(told.size() == 2);
  CHECK(told[0].type == "unregistration_notification");
  CHECK(told[1].content == Json{{"id", 0}, {"uuid", "b"}});
}

TEST_CASE("an engine that dies while it registers frees its id") {
  World world;
  world.hub.on_query("a", world.message("registration_request", {{"uuid", "a"}, {"id", 3}}),
                     kStart);
  const Json report{{"id", 3}, {"uuid", "a"}, {"reason", "it slipped"}};
  world.hub.on_query("s", world.message("unregistration_request", report), kStart);
  world.take<Reply>();
  world.hub.on_query("b", world.message("registration_request", {{"uuid", "b"}, {"id", 3}}),
                     kStart);
  CHECK(world.take<Reply>().at(0).content["id"] == 3);
}

TEST_CASE("clients hear of an end after the answers to the requests that it strands") {
  World world;
  world.register_engine("a");
  world.ledger.submit(ddipp::test::make_record("task", "a"));
  world.take<Notify>();
  const Json report{{"id", 0}, {"uuid", "a"}, {"reason", "it slipped"}};
  world.hub.on_query("s", world.message("unregistration_request", report), kStart);
  world.hub.tick(kStart + 5ms);
  const auto actions = world.hub.take_actions();
  for (const auto& action : actions) CHECK_FALSE(std::holds_alternative<Notify>(action));
  world.hub.tick(kStart + 30ms);
  CHECK(world.take<Notify>().size() == 1);
}

TEST_CASE("a client that subscribes late hears what it has missed, as it is now") {
  World world;
  world.register_engine("a");
  world.register_engine("b");
  world.hub.on_client_subscribed(kStart);  // no connection_reply before it
  world.take<Notify>();
  const auto later = kStart + 1s;
  world.hub.on_query("c", world.message("connection_request"), later);
  world.hub.on_query("x", world.message("registration_request", {{"uuid", "c"}}), later);
  world.hub.on_pong("c", "1", later + 1ms);
  world.hub.on_query("x", world.message("unregistration_request", {{"id", 0}}), later);
  world.hub.tick(later + 100ms);
  world.take<Notify>();
  world.hub.on_client_subscribed(later + 200ms);
  const auto told = world.take<Notify>();
  REQUIRE(told.size() == 2);
  CHECK(told[0].type == "unregistration_notification");
  CHECK(told[0].content["id"] == 0);
  CHECK(told[1].type == "registration_notification");
  CHECK(told[1].content["id"] == 2);
  world.hub.on_client_subscribed(later + 1min);
  CHECK(world.take<Notify>().empty());
}

TEST_CASE("hearts that subscribe together share one early ping") {
  World world;
  world.hub.on_heart_subscribed(kStart);
  world.hub.on_heart_subscribed(kStart + 1ms);
  CHECK(world.take<Ping>().empty());
  world.hub.tick(world.hub.next_deadline());
  CHECK(world.take<Ping>().size() == 1);
  CHECK(world.hub.next_deadline() == kStart + 1000ms);
}

TEST_CASE("a registration whose heart never beats is dropped") {
  World world;
  world.hub.on_query("u", world.message("registration_request", {{"uuid", "u"}}), kStart);
  world.hub.tick(kStart + 5000ms);
  world.take<Notify>();
  world.hub.on_pong("u", "1", kStart);
  CHECK(world.take<Notify>().empty());
}

TEST_CASE("bad requests get an error reply and change nothing") {
  World world;
  world.hub.on_query("p", world.message("registration_request"), kStart);
  world.hub.on_query("p", world.message("nonsense_request"), kStart);
  const auto replies = world.take<Reply>();
  REQUIRE(replies.size() == 2);
  for (const auto& reply : replies) {
    CHECK(reply.type == "hub_error");
    CHECK(reply.content["status"] == "error");
  }
  CHECK(replies[1].content["ename"] == "KeyError");
  world.hub.on_query("p", world.message("unregistration_request", {{"id", "x"}}), kStart);
  CHECK(world.take<Reply>().empty());
}

TEST_CASE("a request with another key is answered so that its sender fails at once") {
  World world;
  world.hub.on_bad_query("peer", OpenError::wrong_signature);
  CHECK(world.take<Reply>().size() == 1);
  world.hub.on_bad_query("peer", OpenError::no_delimiter);
  CHECK(world.take<Reply>().empty());
}

TEST_CASE("a stop answers what is outstanding, then tells every client once") {
  World world;
  world.ledger.submit(ddipp::test::make_record("m", "u"));
  world.hub.on_stop_signal("signal", kStart);
  world.hub.on_query("c", world.message("shutdown_request"), kStart);
  CHECK(world.take<AnswerAll>().size() == 1);
  world.hub.tick(kStart + 50ms);
  CHECK(world.take<Stop>().empty());
  CHECK(world.hub.next_deadline() == kStart + 100ms);
  world.hub.tick(kStart + 100ms);
  int notifications = 0;
  for (const Action& action : world.hub.take_actions()) {
    if (const auto* notify = std::get_if<Notify>(&action)) {
      ++notifications;
      CHECK(notify->type == "shutdown_notification");
    }
    if (std::holds_alternative<Stop>(action)) CHECK(notifications == 1);
  }
  CHECK(notifications == 1);
}

TEST_CASE(
    "of a stop that no client asked for clients are not told: they would close in its midst") {
  World world;
  world.hub.on_stop_signal("signal", kStart);
  world.hub.tick(kStart);
  CHECK(world.take<Notify>().empty());
}

TEST_CASE("a notification of the end answers the request for it") {
  World world;
  world.hub.on_query("c", world.message("shutdown_request"), kStart);
  world.hub.tick(kStart);
  const auto told = world.take<Notify>();
  REQUIRE(told.size() == 1);
  CHECK(told[0].parent_header["msg_type"] == "shutdown_request");
}

TEST_CASE("with nothing outstanding a stop does not wait") {
  World world;
  world.hub.on_stop_signal("signal", kStart);
  world.hub.tick(kStart);
  CHECK(world.take<Stop>().size() == 1);
}

TEST_CASE("an engine that was cut off comes back under its old id, by its connection or a pong") {
  World world;
  world.register_engine("a");
  world.register_engine("b");
  world.hub.on_presence("a", false, false, kStart);
  world.hub.on_presence("b", false, false, kStart);
  world.hub.tick(kStart + 500ms);
  CHECK(world.take<EngineLost>().size() == 2);
  world.register_engine("c");
  world.take<Notify>();

  world.hub.on_presence("a", true, false, kStart + 600ms);
  const auto back = world.take<Notify>();
  REQUIRE(back.size() == 1);
  CHECK(back[0].type == "registration_notification");
  CHECK(back[0].content == Json{{"id", 0}, {"uuid", "a"}});

  world.hub.on_pong("b", "0", kStart);  // to a ping from before it was lost
  CHECK(world.take<Notify>().empty());
  world.hub.tick(kStart + 1000ms);  // a ping
  world.hub.on_pong("b", "1", kStart);
  CHECK(world.take<EngineJoined>().size() == 1);
  CHECK(world.hub.registry().find("b")->id == 1);
}

TEST_CASE("an engine that was told to end keeps its requests until it has ended") {
  for (const bool by_its_supervisor : {false, true}) {
    World world;
    world.register_engine("a");
    world.ledger.submit(ddipp::test::make_record("m", "a"));
    world.hub.take_actions();
    world.hub.on_shutdown_accepted("a");
    world.hub.on_shutdown_accepted("a");
    world.hub.on_shutdown_accepted("unknown");
    CHECK(world.take<EngineRetired>().size() == 1);
    world.hub.tick(kStart + 900ms);
    CHECK(world.take<EngineLost>().empty());
    CHECK(world.hub.registry().contains("a"));
    Json goodbye{{"id", 0}};
    if (by_its_supervisor) goodbye.update(Json{{"uuid", "a"}, {"reason", "killed by signal 9"}});
    world.hub.on_query("a", world.message("unregistration_request", goodbye), kStart + 950ms);
    world.hub.tick(kStart + 1000ms);
    const auto lost = world.take<EngineLost>();
    REQUIRE(lost.size() == 1);
    CHECK(lost[0].why == "it was shut down");
  }
}

TEST_CASE("an engine that was shut down does not come back") {
  World world;
  world.register_engine("a");
  world.hub.on_engine_shutdown("a", kStart);
  world.hub.on_presence("a", false, true, kStart + 1ms);
  world.hub.on_presence("a", true, true, kStart + 2ms);
  world.hub.tick(kStart + 50ms);
  const auto lost = world.take<EngineLost>();
  REQUIRE(lost.size() == 1);
  CHECK(lost[0].why == "it was shut down");
  world.hub.on_presence("a", true, true, kStart + 60ms);
  CHECK(world.take<EngineJoined>().empty());
}

TEST_CASE("restored engines keep their ids, and are lost when they don't answer") {
  World world;
  world.hub.restore({{3, "a"}, {5, "b"}, {3, "twice"}}, 9);
  CHECK(world.take<EngineJoined>().size() == 2);
  world.register_engine("new");
  CHECK(world.hub.registry().find("new")->id == 9);
  world.take<EngineJoined>();
  for (int beat = 1; beat <= 5; ++beat) {
    world.hub.tick(kStart + beat * 1000ms);
    world.hub.on_pong("a", std::to_string(beat), kStart);
    world.hub.on_pong("new", std::to_string(beat), kStart);
  }
  const auto lost = world.take<EngineLost>();
  REQUIRE(lost.size() == 1);
  CHECK(lost[0].engine.uuid == "b");
}

TEST_CASE("a cluster without clients and work ends after its time, engines first") {
  World world({1000ms, 100}, 10s);
  world.register_engine("u");
  const auto told_to_end = [&world](std::chrono::seconds second) {
    world.hub.tick(kStart + second);
    return !world.take<ShutDownEngines>().empty();
  };
  CHECK_FALSE(told_to_end(9s));
  world.hub.on_clients(true, kStart + 9s);
  CHECK_FALSE(told_to_end(60s));
  world.hub.on_clients(false, kStart + 60s);
  CHECK(world.hub.next_deadline() <= kStart + 61s);
  CHECK_FALSE(told_to_end(69s));
  // What a client that is gone has left to do holds the cluster, and the time begins anew after it.
  world.ledger.submit(ddipp::test::make_record("a", "u"));
  CHECK_FALSE(told_to_end(75s));
  world.ledger.finish("a", ddipp::test::make_result("r"), Timestamp{});
  CHECK_FALSE(told_to_end(84s));
  CHECK(told_to_end(85s));
  CHECK_FALSE(told_to_end(86s));
  CHECK(world.take<Stop>().empty());
  world.hub.on_engine_shutdown("u", kStart + 86s);
  world.hub.tick(kStart + 87s);
  world.hub.tick(kStart + 87s);
  CHECK(world.take<Stop>().size() == 1);
}

TEST_CASE("a cell that failed on one engine is ended on the others when no client is there") {
  World world({1000ms, 1000}, 900s);
  world.ledger.on_finished(
      [&world](const Record& record) { world.hub.on_finished(record, kStart + 5s); });
  const Timestamp noon{12h};
  const auto submit = [&](const std::string& id, const std::string& engine, Timestamp arrived) {
    auto record = ddipp::test::make_record(id, engine);
    record->msg_type = "execute_request";
    record->arrived = arrived;
    world.ledger.submit(record);
  };
  const auto fail = [&](const std::string& id, Timestamp received) {
    auto result = ddipp::test::make_result("r");
    result.content = R"({"status": "error", "ename": "ValueError"})";
    world.ledger.finish(id, result, received);
  };
  const auto ended = [&world](std::chrono::seconds second) {
    world.hub.tick(kStart + second);
    const auto actions = world.take<EndCells>();
    return actions.empty() ? std::set<std::string>{} : actions[0].engines;
  };
  for (const char* engine : {"a", "b", "c"}) world.register_engine(engine);
  const std::set<std::string> others{"b", "c"};

  SUBCASE("after the grace time, again and again, and no more once it has ended") {
    submit("cell a", "a", noon);
    submit("cell b", "b", noon + 1ms);
    submit("cell c", "c", noon + 2ms);
    CHECK(ended(4s).empty());
    fail("cell a", noon + 5s);
    CHECK(world.hub.next_deadline() <= kStart + 15s);
    CHECK(ended(14s).empty());
    CHECK(ended(15s) == others);
    CHECK(ended(16s).empty());
    CHECK(ended(25s) == others);
    fail("cell b", noon + 26s);
    fail("cell c", noon + 26s);
    CHECK(ended(60s).empty());
  }
  SUBCASE("after the time that the cell itself gives them") {
    for (const char* engine : {"a", "b"}) {
      auto record = ddipp::test::make_record(std::string("cell ") + engine, engine);
      record->msg_type = "execute_request";
      record->arrived = noon;
      record->request.metadata = R"({"label": null, "ddipp": {"version": 1, "grace": 30.5}})";
      world.ledger.submit(record);
    }
    fail("cell a", noon + 5s);
    CHECK(ended(35s).empty());
    CHECK(ended(36s) == std::set<std::string>{"b"});
  }
  SUBCASE("a client does it itself; the grace time begins when it is gone") {
    world.hub.on_clients(true, kStart);
    submit("cell a", "a", noon);
    submit("cell b", "b", noon);
    submit("cell c", "c", noon);
    fail("cell a", noon + 5s);
    CHECK(ended(60s).empty());
    world.hub.on_clients(false, kStart + 60s);
    CHECK(ended(69s).empty());
    CHECK(ended(70s) == others);
  }
  SUBCASE("the next cell has not failed") {
    submit("cell a", "a", noon);
    fail("cell a", noon + 5s);
    submit("next", "b", noon + 6s);
    CHECK(ended(60s).empty());
  }
  SUBCASE("tasks that any engine may do have nothing to do with each other") {
    for (const char* id : {"task a", "task b"}) {
      auto record = ddipp::test::make_record(id, std::string(1, id[5]), Queue::task);
      record->msg_type = "execute_request";
      record->arrived = noon;
      world.ledger.submit(record);
    }
    fail("task a", noon + 5s);
    CHECK(ended(60s).empty());
    submit("cell c", "c", noon + 60s);
    fail("cell c", noon + 61s);
    CHECK(ended(120s).empty());
  }
  SUBCASE("one that fails at once fails before the others have their part of it") {
    submit("cell a", "a", noon);
    fail("cell a", noon + 1ms);
    submit("cell b", "b", noon + 3ms);
    submit("cell c", "c", noon + 5ms);
    CHECK(ended(60s) == others);
  }
}

TEST_CASE("an engine that knows routes gets one, and stays known by it when it is lost") {
  MemoryStore store{MemoryStoreOptions{}};
  Ledger ledger{store};
  HubOptions options;
  options.heart = {1000ms, 0};
  options.make_header = [](const std::string& type) { return Header{"id", type, "", "", "", ""}; };
  options.make_route = [](const std::string& uuid) { return uuid + ".code"; };
  Hub hub(options, ledger, store, kStart);
  Message request;
  request.header.msg_type = "registration_request";
  request.content = {{"uuid", "ours"}, {"ddipp_relay", 1}};
  hub.on_query("peer", request, kStart);
  auto actions = hub.take_actions();
  const auto* reply = std::get_if<Reply>(&actions.back());
  REQUIRE(reply != nullptr);
  CHECK(reply->content["ddipp_relay"] == 1);
  CHECK(hub.has_route("ours"));
  hub.on_pong("ours", "1", kStart);
  CHECK(hub.registry().get("ours")->route == "ours.code");
  hub.on_presence("ours", false, false, kStart);
  hub.tick(kStart + 10s);
  CHECK_FALSE(hub.registry().contains("ours"));
  CHECK(hub.has_route("ours"));  // it may come back

  request.content = {{"uuid", "stock"}};
  hub.on_query("peer", request, kStart);
  CHECK_FALSE(hub.has_route("stock"));
  actions = hub.take_actions();
  CHECK_FALSE(std::get<Reply>(actions.back()).content.contains("ddipp_relay"));
}
