#include "engine/core/stream_coalescer.hpp"

#include <string>

#include <doctest/doctest.h>

using namespace ddipp::engine;
using namespace std::chrono_literals;

namespace {
const StreamCoalescer::TimePoint kStart{};
}

TEST_CASE("writes of one request to one stream become one message") {
  StreamCoalescer streams;
  streams.write("stdout", "p", "a", kStart);
  streams.write("stdout", "p", "b", kStart);
  streams.write("stderr", "p", "c", kStart);
  streams.write("stdout", "q", "d", kStart);
  const auto texts = streams.take(kStart);
  REQUIRE(texts.size() == 3);
  CHECK(texts[0].text == "ab");
  CHECK(texts[1].name == "stderr");
  CHECK(texts[2].parent_header == "q");
  CHECK(streams.take(kStart).empty());
}

TEST_CASE("text waits shortly after a quiet time and longer while output keeps coming") {
  StreamCoalescer streams;
  CHECK_FALSE(streams.next_deadline());
  streams.write("stdout", "", "a", kStart);
  CHECK(streams.next_deadline() == kStart + 3ms);
  streams.write("stdout", "", "b", kStart + 2ms);
  CHECK(streams.next_deadline() == kStart + 3ms);
  streams.take(kStart + 3ms);
  CHECK_FALSE(streams.next_deadline());
  streams.write("stdout", "", "c", kStart + 20ms);
  CHECK(streams.next_deadline() == kStart + 33ms);
  streams.take(kStart + 33ms);
  streams.write("stdout", "", "d", kStart + 500ms);
  CHECK(streams.next_deadline() == kStart + 503ms);
}

TEST_CASE("much text does not wait") {
  StreamCoalescer streams;
  streams.write("stdout", "", std::string(100'000, 'x'), kStart);
  CHECK(streams.next_deadline() == kStart);
}

TEST_CASE("a progress line keeps its last state only") {
  CHECK(collapse_overwritten("no return") == "no return");
  CHECK(collapse_overwritten("1%\r2%\r3%") == "\r3%");
  CHECK(collapse_overwritten("a\n1%\r2%\nb\rc") == "a\n\r2%\n\rc");
  CHECK(collapse_overwritten("windows\r\nline\r\n") == "windows\r\nline\r\n");
  CHECK(collapse_overwritten("half\r") == "half\r");
  CHECK(collapse_overwritten("\r\r") == "\r\r");
}
