#include <string>

#include <doctest/doctest.h>

#include "engine/core/output_history.hpp"
#include "engine/core/output_limit.hpp"

using namespace ddipp::engine;

namespace {

std::string joined(const std::vector<StreamText>& texts, const std::string& name) {
  std::string all;
  for (const auto& text : texts) {
    if (text.name == name) all += text.text;
  }
  return all;
}

}  // namespace

TEST_CASE("what is within the limit passes unchanged, for each request and stream") {
  OutputLimit limit(10);
  for (const char* request : {"a", "b"}) {
    for (const char* name : {"stdout", "stderr"}) {
      const auto admitted = limit.admit({name, request, "0123456789"});
      REQUIRE(admitted.size() == 1);
      CHECK(admitted[0].text == "0123456789");
    }
    CHECK(limit.finish(request).empty());
  }
}

TEST_CASE("beyond the limit there is one notice, and the end of the text at the end") {
  OutputLimit limit(10);
  const auto admitted = limit.admit({"stdout", "a", "0123456789abc\n"});
  CHECK(joined(admitted, "stdout") == "0123456789");
  CHECK(joined(admitted, "stderr").find("--output-limit") != std::string::npos);
  const std::string line(1000, 'x');
  for (int i = 0; i < 1000; ++i) CHECK(limit.admit({"stdout", "a", line + "\n"}).empty());
  CHECK(limit.admit({"stdout", "a", "the end\n"}).empty());
  const auto rest = limit.finish("a");
  const std::string end = joined(rest, "stdout");
  CHECK(end.ends_with(line + "\nthe end\n"));
  CHECK(end.starts_with('x'));  // whole lines
  CHECK(end.size() % 1001 == 8);
  CHECK(end.size() <= 64 * 1024);
  CHECK(joined(rest, "stderr").find("MiB of stdout left out") != std::string::npos);
  CHECK(limit.finish("a").empty());
}

TEST_CASE("a character is not cut in two") {
  OutputLimit limit(4);
  const auto admitted = limit.admit({"stdout", "a", "abc\u00e9\u00e9"});
  CHECK(joined(admitted, "stdout") == "abc\u00e9");
  CHECK(incomplete_utf8("abc") == 0);
  CHECK(incomplete_utf8("") == 0);
  CHECK(incomplete_utf8("ab\xc3") == 1);
  CHECK(incomplete_utf8("\xe2\x82") == 2);
  CHECK(incomplete_utf8("\xf0\x9f\x98") == 3);
  CHECK(incomplete_utf8("\xf0\x9f\x98\x80") == 0);
  CHECK(incomplete_utf8("\x80\x80\x80\x80") == 0);  // no text at all
}

TEST_CASE("the last outputs of each request are kept within bounds") {
  OutputHistory history;
  history.add("a", "stream", "1");
  history.add("b", "display_data", "2");
  history.add("a", "execute_result", "3");
  REQUIRE(history.entries().size() == 2);
  CHECK(history.entries()[0].outputs.size() == 2);
  CHECK(history.entries()[0].outputs[1].msg_type == "execute_result");
  const std::string large(400 * 1024, 'x');
  for (int i = 0; i < 5; ++i) history.add("a", "stream", large);
  CHECK(history.entries()[0].outputs.size() == 2);
  CHECK(history.entries()[0].left_out == 5);
  for (int i = 0; i < 1000; ++i) history.add(std::to_string(i), "stream", "x");
  CHECK(history.entries().size() == 64);
  CHECK(history.entries().back().parent_header == "999");
  CHECK(OutputHistory::keeps("stream"));
  CHECK_FALSE(OutputHistory::keeps("status"));
}
