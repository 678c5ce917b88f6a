#include "engine/warm_worker.hpp"

#include <filesystem>
#include <sched.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

#include "engine/worker.hpp"

extern char** environ;  // NOLINT(readability-redundant-declaration)

namespace ddipp::engine {
namespace {

using protocol::Json;

constexpr const char* kBootstrap =
    "from ddipp_engine.nursery import main\n"
    "main()\n";

// JSON holds text; each byte becomes the character of that number.
std::string as_text(const char* bytes) {
  std::string text;
  for (; *bytes != '\0'; ++bytes) {
    const auto byte = static_cast<unsigned char>(*bytes);
    if (byte < 0x80) {
      text += static_cast<char>(byte);
    } else {
      text += static_cast<char>(0xc0 | (byte >> 6));
      text += static_cast<char>(0x80 | (byte & 0x3f));
    }
  }
  return text;
}

Json environment_entries() {
  Json entries = Json::array();
  for (char** entry = environ; *entry != nullptr; ++entry) entries.push_back(as_text(*entry));
  return entries;
}

Json processors() {
  Json numbers = Json::array();
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return numbers;  // more than fit: as it is
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) numbers.push_back(cpu);
  }
  return numbers;
}

mode_t file_mask() {
  const mode_t mask = ::umask(077);
  ::umask(mask);
  return mask;
}

}  // namespace

NurseryRequest warm_worker_request(const Options& options, const WorkerStart& start,
                                   const WorkerSide& side) {
  std::error_code ignored;
  Json content{{"options", host_options(options, start, side)},
               {"arguments", options.python_arguments},
               {"environment", environment_entries()},
               {"folder", std::filesystem::current_path(ignored).string()},
               {"processors", processors()},
               {"umask", file_mask()},
               {"preload", options.preload}};
  return {std::move(content),
          {side.state, side.stdout_read, side.stdout_write, side.stderr_read, side.stderr_write,
           side.fault_write, 0, 1, 2}};
}

std::string enter_nursery(const Interpreter& interpreter, int listener) {
  return replace_by(interpreter, {"-c", kBootstrap, host_library(), std::to_string(listener)});
}

}  // namespace ddipp::engine
