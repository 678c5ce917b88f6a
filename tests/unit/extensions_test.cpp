#include "protocol/extensions.hpp"

#include <doctest/doctest.h>

namespace extensions = ddipp::protocol::extensions;
using ddipp::protocol::Json;
using ddipp::protocol::parse_content;

TEST_CASE("requests of ours are read as they were written") {
  extensions::CutRequest cut;
  cut.generation = 3;
  cut.everything = true;
  const auto read = parse_content<extensions::CutRequest>(Json(cut));
  REQUIRE(read);
  CHECK(read->generation == 3);
  CHECK(read->everything);
  const auto present = parse_content<extensions::CutRequest>(Json(extensions::CutRequest{}));
  REQUIRE(present);
  CHECK_FALSE(present->generation);

  const Json report = extensions::ReportRequest{true, "GPU-1"};
  CHECK(parse_content<extensions::ReportRequest>(report)->stack);
  CHECK(parse_content<extensions::ReportRequest>(report)->gpu == "GPU-1");
  CHECK(parse_content<extensions::ReplayRequest>(Json{{"msg_id", "a"}})->msg_id == "a");
  CHECK(parse_content<extensions::InterruptFor>(Json{{"sig", 2}, {"msg_id", "a"}})->msg_id == "a");
  CHECK(parse_content<extensions::InterruptFor>(Json{{"sig", 2}})->msg_id.empty());
}

TEST_CASE("what a peer sends wrong is a value") {
  for (const char* text : {R"({"generation": "x"})", R"({"generation": 1.5})", R"([])", R"("?")"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_content<extensions::CutRequest>(Json::parse(text)));
  }
  CHECK_FALSE(parse_content<extensions::ReportRequest>(Json("?")));
  CHECK_FALSE(extensions::cell_terms(Json("?")));
  for (const char* text : {R"({})", R"({"ddipp": 1})", R"({"ddipp": {"grace": "x"}})",
                           R"({"ddipp": {"grace": -1}})"}) {
    CHECK_FALSE(extensions::cell_terms(Json::parse(text)));
  }
  CHECK(extensions::cell_terms(Json::parse(R"({"ddipp": {"grace": 2.5}})"))->grace_s == 2.5);
}

TEST_CASE("the cause of a death is an entry of its own") {
  CHECK(extensions::death_entry({"it was killed"}) ==
        Json{{"version", extensions::kVersion}, {"death", "it was killed"}});
}
