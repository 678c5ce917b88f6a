#include "protocol/connection_file.hpp"

#include <fstream>
#include <sys/stat.h>
#include <unistd.h>

#include <doctest/doctest.h>

using namespace ddipp::protocol;
namespace fs = std::filesystem;

namespace {

struct TemporaryFolder {
  fs::path path = fs::temp_directory_path();
  TemporaryFolder() {
    path /= "ddipp-test-";
    path += std::to_string(::getpid());
    fs::create_directories(path);
  }
  ~TemporaryFolder() { fs::remove_all(path); }
};

EngineConnection example() {
  EngineConnection engine;
  engine.common.key = "k";
  engine.common.registration = 1;
  engine.control = 2;
  engine.mux = 3;
  engine.task = 4;
  engine.iopub = 5;
  engine.hb_ping = 6;
  engine.hb_pong = 7;
  engine.broadcast = {8, 9};
  return engine;
}

}  // namespace

TEST_CASE("connection information comes back as it was written, readable by its owner only") {
  const TemporaryFolder folder;
  const fs::path file = folder.path / "engine.json";
  REQUIRE(write_json_file(file, to_json(example())));
  struct stat status {};
  REQUIRE(::stat(file.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);

  const auto json = read_json_file(file);
  REQUIRE(json);
  const auto engine = parse_engine_connection(*json);
  REQUIRE(engine);
  CHECK(engine->common.key == "k");
  CHECK(engine->hb_pong == 7);
  CHECK(engine->broadcast == std::vector<int>{8, 9});
  CHECK(engine->common.curve_serverkey.empty());
}

TEST_CASE("writing replaces a file and leaves nothing beside it") {
  const TemporaryFolder folder;
  const fs::path file = folder.path / "engine.json";
  std::ofstream(file) << "old";
  REQUIRE(write_json_file(file, Json{{"new", true}}));
  CHECK((*read_json_file(file))["new"] == true);
  CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator{}) == 1);
}

TEST_CASE("a file that can't be written or read is named with the cause") {
  const auto written = write_json_file("/nonexistent/engine.json", Json::object());
  REQUIRE_FALSE(written);
  CHECK(written.error() ==
        "can't write the file /nonexistent/engine.json: No such file or directory");
  CHECK(read_json_file("/nonexistent/engine.json").error() ==
        "can't read the file /nonexistent/engine.json: No such file or directory");
}

TEST_CASE("the first missing or ill-typed entry is named") {
  Json json = to_json(example());
  json.erase("mux");
  CHECK(parse_engine_connection(json).error() == "it has no entry 'mux'");
  json["mux"] = "3";
  CHECK(parse_engine_connection(json).error() == "'mux' is not a port");
  json["mux"] = 3;
  json["broadcast"] = 8;
  CHECK(parse_engine_connection(json).error() == "'broadcast' is not a list of ports");
  CHECK(parse_engine_connection(Json::array()).error() == "it is not a JSON object");
}
