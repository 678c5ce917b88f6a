#include "engine/connection.hpp"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>

#include "common/profile.hpp"
#include "protocol/connection_file.hpp"

namespace ddipp::engine {
namespace {

// It may be still to come, and ipcontroller writes it in place: half of it is no JSON yet.
Result<protocol::Json> wait_for_file(const std::filesystem::path& path, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  for (std::string announced;; std::this_thread::sleep_for(std::chrono::milliseconds(20))) {
    auto info = protocol::read_json_file(path);
    if (info || Clock::now() >= deadline) return info;
    if (info.error() != announced) {
      announced = info.error();
      std::fprintf(stderr, "dipengine: waiting up to %.0f s for the controller's file: %s\n",
                   seconds, announced.c_str());
    }
  }
}

}  // namespace

Result<Connection> find_connection(const Options& options) {
  const std::string variable = environment("IPP_CONNECTION_INFO");
  if (!variable.empty()) {
    auto info = protocol::unpack(variable, protocol::Packing::json);
    if (!info) return Failure{std::string("$IPP_CONNECTION_INFO is not valid JSON")};
    return Connection{std::move(*info), "$IPP_CONNECTION_INFO"};
  }
  auto info = wait_for_file(options.connection_file, options.wait_for_file_s);
  if (!info) return Failure{info.error() + "; is a controller running with this profile?"};
  return Connection{std::move(*info), options.connection_file.string()};
}

}  // namespace ddipp::engine
