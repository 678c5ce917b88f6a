// The in-memory store, the ledger in front of it, and the buffers' form in SQLite.
#include <map>
#include <random>

#include <doctest/doctest.h>

#include "controller/core/ledger.hpp"
#include "controller/core/memory_store.hpp"
#include "controller/core/pickled_buffers.hpp"
#include "records.hpp"

using namespace ddipp::controller;
using ddipp::protocol::Blob;
using ddipp::test::make_record;
using ddipp::test::make_result;

namespace {

const ddipp::protocol::Timestamp kNow{};

MemoryStoreOptions limits(std::size_t records, std::size_t bytes) {
  MemoryStoreOptions options;
  options.record_limit = records;
  options.size_limit = bytes;
  return options;
}

std::vector<std::string> stored_ids(Store& store, const Query& query = {}) {
  const auto found = store.find(query, true);
  REQUIRE(found);
  std::vector<std::string> ids;
  for (const auto& record : *found) ids.push_back(record->msg_id);
  return ids;
}

using Ids = std::vector<std::string>;

}  // namespace

TEST_CASE("past the limit the oldest finished records are dropped and nothing that is on its way") {
  MemoryStore store(limits(10, 1 << 20));
  Ledger ledger(store);
  for (int i = 0; i < 30; ++i) {
    const std::string id = "m" + std::to_string(100 + i);
    ledger.submit(make_record(id, "e"));
    if (i % 3 != 0) ledger.finish(id, make_result(), kNow);
  }
  // 10 of 30 are unfinished: they alone fill the store.
  CHECK(stored_ids(store, {{"completed", Operator::eq, nullptr}}).size() == 10);
  CHECK(store.records() <= 11);
  CHECK(ledger.pending_count() == 10);
}

TEST_CASE("the limit in bytes counts what is in flight") {
  MemoryStore store(limits(1000, 10'000));
  Ledger ledger(store);
  ledger.submit(make_record("done", "e"));
  ledger.finish("done", make_result(std::string(5000, 'x')), kNow);
  CHECK(store.bytes() > 5000);
  auto big = make_record("big", "e");
  big->request.buffers = {Blob(std::string(20'000, 'x'))};
  ledger.submit(big);
  CHECK(stored_ids(store) == Ids{"big"});
  ledger.finish("big", make_result(), kNow);  // its client has the result; the store has not
  CHECK(stored_ids(store).empty());
  CHECK(store.bytes() == 0);
}

TEST_CASE("history is in the order of the clients' dates, records in that of their coming") {
  MemoryStore store{MemoryStoreOptions{}};
  store.add(make_record("b", "", Queue::mux, "2026-01-31T12:00:02Z"));
  store.add(make_record("a", "", Queue::mux, "2026-01-31T13:00:01+01:00"));
  store.add(make_record("none", "", Queue::mux, "no date"));
  CHECK(*store.history() == Ids{"a", "b"});
  CHECK(stored_ids(store) == Ids{"b", "a", "none"});
  REQUIRE(store.drop({{"msg_id", Operator::in, {"a", "b"}}}));
  CHECK(stored_ids(store) == Ids{"none"});
}

TEST_CASE("no store answers with the way to have one") {
  NoStore store;
  Ledger ledger(store);
  ledger.submit(make_record("m", "e"));
  CHECK(ledger.pending("m"));
  ledger.finish("m", make_result(), kNow);
  CHECK_FALSE(ledger.pending("m"));
  const auto found = store.find({}, true);
  REQUIRE_FALSE(found);
  CHECK(found.error().name == "NoData");
}

TEST_CASE("output comes before or after the reply and is kept") {
  MemoryStore store{MemoryStoreOptions{}};
  Ledger ledger(store);
  ledger.submit(make_record("m", "e"));
  ledger.output("m", OutputKind::output, "one ");
  ledger.finish("m", make_result(), kNow);
  ledger.output("m", OutputKind::output, "two");
  ledger.output("m", OutputKind::error_output, "oops");
  ledger.output("unknown", OutputKind::output, "x");
  const auto found = store.find({}, true);
  CHECK((*found)[0]->output == "one two");
  CHECK((*found)[0]->error_output == "oops");
  ledger.submit(make_record("endless", "e"));
  for (int i = 0; i < 40; ++i) {
    ledger.output("endless", OutputKind::output, std::string(std::size_t{1} << 20U, 'x'));
  }
  CHECK(ledger.find("endless")->output.size() < (std::size_t{17} << 20U));
}

TEST_CASE("a request is answered once, whoever answers it first") {
  MemoryStore memory{MemoryStoreOptions{}};
  NoStore none;
  for (Store* store : {static_cast<Store*>(&memory), static_cast<Store*>(&none)}) {
    Ledger ledger(*store);
    int observed = 0;
    ledger.on_finished([&](const Record&) { ++observed; });
    auto died = make_result();
    died.content = R"({"status": "error"})";
    ledger.submit(make_record("given up", "e"));
    ledger.give_up("given up", died, kNow);
    CHECK_FALSE(ledger.finish("given up", make_result(), kNow));
    CHECK_FALSE(ledger.finish("given up", make_result(), kNow));
    CHECK(observed == 1);
    if (store == &memory) {
      CHECK((*memory.find({}, true))[0]->result->content == R"({"status": "error"})");
    }
    ledger.submit(make_record("given up", "e"));  // once more, by the same client
    CHECK(ledger.finish("given up", make_result(), kNow));
  }

  Ledger ledger(memory);
  ledger.submit(make_record("answered", "e"));
  CHECK(ledger.finish("answered", make_result(), kNow));
  CHECK_FALSE(ledger.finish("answered", make_result("again"), kNow));
  CHECK(ledger.finish("of an earlier controller", make_result(), kNow));
}

TEST_CASE("what was given up is remembered within limits") {
  NoStore none;
  Ledger ledger(none);
  for (std::size_t i = 0; i <= Ledger::kGivenUp; ++i) {
    const std::string id = "m" + std::to_string(i);
    ledger.submit(make_record(id, "e"));
    ledger.give_up(id, make_result(), kNow);
  }
  CHECK(ledger.finish("m0", make_result(), kNow));
  CHECK_FALSE(ledger.finish("m1", make_result(), kNow));
}

TEST_CASE("whatever the order of events, every request is in one list until it is finished") {
  for (unsigned seed = 0; seed < 2000; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](unsigned below) { return random() % below; };
    MemoryStore store{MemoryStoreOptions{}};
    Ledger ledger(store);
    struct Expected {
      std::string engine;
      Queue queue;
    };
    std::map<std::string, Expected> model;
    std::map<std::string, unsigned> completed;
    const auto some_id = [&] { return "m" + std::to_string(pick(20)); };
    const auto some_engine = [&] { return std::string(1, static_cast<char>('a' + pick(3))); };
    for (int step = 0; step < 60; ++step) {
      const std::string id = some_id();
      switch (pick(4)) {
        case 0: {
          const Queue queue = pick(2) == 0 ? Queue::task : Queue::mux;
          const std::string engine = queue == Queue::task ? "" : some_engine();
          ledger.submit(make_record(id, engine, queue));
          model.try_emplace(id, Expected{engine, queue});
          break;
        }
        case 1: {
          if (!model.contains(id) || model[id].queue != Queue::task) break;
          model[id].engine = pick(4) == 0 ? "" : some_engine();
          ledger.assign(id, model[id].engine);
          break;
        }
        case 2:
          ledger.finish(id, make_result(), kNow);
          if (const auto found = model.find(id); found != model.end()) {
            if (!found->second.engine.empty()) ++completed[found->second.engine];
            model.erase(found);
          }
          break;
        case 3: {
          const std::string engine = some_engine();
          ledger.forget_engine(engine);
          completed.erase(engine);
          for (auto& [name, expected] : model) {
            if (expected.engine == engine) expected.engine.clear();
          }
          break;
        }
      }
      std::map<std::string, std::size_t> loads;
      std::size_t unassigned = 0;
      for (const auto& [name, expected] : model) {
        REQUIRE(ledger.pending(name));
        expected.engine.empty() ? ++unassigned : ++loads[expected.engine];
      }
      REQUIRE(ledger.pending_count() == model.size());
      REQUIRE(ledger.outstanding().size() == model.size());
      REQUIRE(ledger.unassigned().size() == unassigned);
      for (const char* engine : {"a", "b", "c"}) {
        REQUIRE(ledger.load(engine) == loads[engine]);
        const auto view = ledger.view(engine);
        REQUIRE(view.queue.size() + view.tasks.size() == loads[engine]);
        REQUIRE(view.completed_count == completed[engine]);
      }
    }
  }
}

TEST_CASE("buffers are pickled as Python reads them and read as Python pickles them") {
  const std::vector<Blob> buffers{Blob(std::string("ab")), Blob(std::string()),
                                  Blob(std::string(300, 'x'))};
  const auto back = unpickle_buffers(pickle_buffers(buffers));
  REQUIRE(back);
  REQUIRE(back->size() == 3);
  for (std::size_t i = 0; i < 3; ++i) CHECK((*back)[i].view() == buffers[i].view());
  CHECK(unpickle_buffers(pickle_buffers({}))->empty());

  // pickle.dumps([b"a", b"", b""], 5) and with protocol 3, from CPython 3.11
  using namespace std::string_literals;
  const auto five = unpickle_buffers(
      "\x80\x05\x95\x10\x00\x00\x00\x00\x00\x00\x00]\x94(C\x01"
      "a\x94"
      "C\x00\x94"
      "h\x02"
      "e."s);
  REQUIRE(five);
  REQUIRE(five->size() == 3);
  CHECK((*five)[0].view() == "a");
  CHECK((*five)[2].view().empty());
  const auto three = unpickle_buffers(
      "\x80\x03]q\x00(C\x01"
      "aq\x01"
      "C\x00q\x02"
      "h\x02"
      "e."s);
  REQUIRE(three);
  CHECK(three->size() == 3);
  for (const auto& bad : {""s, "."s, "\x80\x04"s, "\x80\x04]C\x05"s, "cos\nsystem\n."s,
                          "\x80\x04]h\x05"s, "\x80\x04]\x8e\xff\xff\xff\xff\xff\xff\xff\xff"s}) {
    CHECK_FALSE(unpickle_buffers(bad));
  }
}
