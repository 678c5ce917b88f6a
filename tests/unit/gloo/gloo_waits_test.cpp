#include "engine/host/gloo_waits.hpp"

#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "unbound_buffer.hpp"

using namespace std::chrono_literals;
using gloo::transport::tcp::UnboundBuffer;
namespace gloo_waits = ddipp::engine::gloo_waits;

namespace {

using Wait = bool (UnboundBuffer::*)(int*, std::chrono::milliseconds);

// Through the table, as torch calls it, whatever the compiler knows of the object.
std::string wait(UnboundBuffer* its_buffer, Wait how, std::chrono::milliseconds timeout) {
  UnboundBuffer* volatile buffer = its_buffer;
  int rank = 0;
  try {
    const bool done = (buffer->*how)(&rank, timeout);
    return std::string(done ? "done" : "not done") + " " + std::to_string(rank);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

bool aborted(const std::string& outcome) { return outcome.find("aborted") != std::string::npos; }

}  // namespace

TEST_CASE("waits of Gloo end when they are aborted, and only then") {
  REQUIRE(gloo_waits::install() == "");
  CHECK(gloo_waits::install() == "");  // once is enough

  for (const Wait how : {&UnboundBuffer::waitRecv, &UnboundBuffer::waitSend}) {
    gloo_waits::allow();
    UnboundBuffer buffer, other;
    buffer.complete();
    CHECK(wait(&buffer, how, 10s) == "done 7");
    CHECK(wait(&buffer, how, 1ms) == "timed out");

    auto first = std::async(std::launch::async, [&] { return wait(&buffer, how, 60s); });
    auto second = std::async(std::launch::async, [&] { return wait(&other, how, 60s); });
    CHECK(first.wait_for(20ms) == std::future_status::timeout);
    CHECK(gloo_waits::oldest() > 10ms);
    gloo_waits::abort();
    CHECK(aborted(first.get()));
    CHECK(aborted(second.get()));
    CHECK(gloo_waits::oldest() == 0ms);

    buffer.complete();  // the next step of the same collective
    CHECK(aborted(wait(&buffer, how, 60s)));
    gloo_waits::allow();
    CHECK(wait(&buffer, how, 10s) == "done 7");
  }
}

TEST_CASE("what failed waits said is known, each text once, until it is forgotten") {
  REQUIRE(gloo_waits::install() == "");
  gloo_waits::allow();
  gloo_waits::forget_failures();
  UnboundBuffer buffer;
  buffer.complete();
  CHECK(wait(&buffer, &UnboundBuffer::waitRecv, 10s) == "done 7");
  CHECK(gloo_waits::failures().empty());
  wait(&buffer, &UnboundBuffer::waitRecv, 1ms);
  wait(&buffer, &UnboundBuffer::waitSend, 1ms);
  CHECK(gloo_waits::failures() == std::vector<std::string>{"timed out"});
  gloo_waits::abort();
  wait(&buffer, &UnboundBuffer::waitSend, 1ms);
  CHECK(gloo_waits::failures().size() == 2);
  gloo_waits::forget_failures();
  CHECK(gloo_waits::failures().empty());
  gloo_waits::allow();
}

TEST_CASE("an abort by torch itself stays what it is") {
  REQUIRE(gloo_waits::install() == "");
  gloo_waits::allow();
  UnboundBuffer buffer;
  buffer.abortWaitRecv();
  CHECK(wait(&buffer, &UnboundBuffer::waitRecv, 10s) == "not done 0");
}

TEST_CASE("many threads that wait while the group is aborted again and again") {
  REQUIRE(gloo_waits::install() == "");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int round = 0; round < 200; ++round) {
        UnboundBuffer buffer;
        wait(&buffer, round % 2 == 0 ? &UnboundBuffer::waitRecv : &UnboundBuffer::waitSend, 1ms);
      }
    });
  }
  for (int round = 0; round < 200; ++round) {
    gloo_waits::abort();
    gloo_waits::allow();
  }
  for (auto& thread : threads) thread.join();
}
