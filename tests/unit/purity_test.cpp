// The cores decide without sockets, clocks, threads or Python. This reads their source and says
// which file broke the rule.
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace fs = std::filesystem;

namespace {

std::string read(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::vector<fs::path> core_files() {
  const fs::path root = DDIPP_SOURCE_DIR;
  std::vector<fs::path> files;
  for (const char* folder : {"protocol", "engine/core", "controller/core"}) {
    for (const auto& entry : fs::directory_iterator(root / folder)) {
      if (entry.is_regular_file() && entry.path().filename() != "CMakeLists.txt") {
        files.push_back(entry.path());
      }
    }
  }
  return files;
}

}  // namespace

TEST_CASE("core and protocol name no socket, clock, thread, random source or interpreter") {
  const auto files = core_files();
  REQUIRE(files.size() > 20);
  for (const auto& file : files) {
    const std::string text = read(file);
    REQUIRE_FALSE(text.empty());
    for (const char* word :
         {"zmq.hpp", "Python.h", "<thread>", "<mutex>", "::now(", "random_device", "getenv"}) {
      CHECK_MESSAGE(text.find(word) == std::string::npos, file.string() << " uses " << word);
    }
  }
}
