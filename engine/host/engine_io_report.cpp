// Ours: what this rank is doing, answered while Python may be stuck.
#include <array>
#include <cstdio>
#include <unistd.h>

#include "engine/host/engine_io.hpp"
#include "protocol/content.hpp"
#include "protocol/extensions.hpp"

namespace ddipp::engine {

using namespace std::chrono_literals;
namespace extensions = protocol::extensions;
using protocol::Json;

namespace {

// A thread that runs Python or waits for a lock answers within microseconds.
constexpr auto kStackPatience = 300ms;

double seconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration<double>(duration).count();
}

Json collective_json(const DdippTorchReport& report) {
  if (report.name[0] == '\0') return nullptr;
  return {{"name", report.name},
          {"number", report.number},
          {"elements", report.elements},
          {"waiting", report.waiting != 0},
          {"age", report.age_seconds}};
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

// Of this process, in bytes; see proc(5).
std::uint64_t resident_memory() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  unsigned long long total = 0, resident = 0;
  const bool read = std::fscanf(file, "%llu %llu", &total, &resident) == 2;
  std::fclose(file);
  return read ? resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) : 0;
}

}  // namespace

void EngineIo::report_request(Request& request) {
  const auto asked = protocol::unpack(net::view(request.content), session_.packing());
  const auto wish = protocol::parse_content<extensions::ReportRequest>(asked ? *asked : Json());
  PendingReport report{std::move(request), wish ? wish->gpu : "", shared_.inbox.running_for(),
                       shared_.inbox.title(), net::Clock::now() + kStackPatience};
  if (!wish || !wish->stack || !shared_.stack_sampler.ask()) return answer(report);
  stack_.clear();
  reports_.push_back(std::move(report));
}

void EngineIo::on_stack() {
  const auto piece = shared_.stack_sampler.read();
  stack_ += piece.text;
  if (piece.complete) answer_reports();
}

void EngineIo::answer_reports() {
  for (const auto& report : std::exchange(reports_, {})) answer(report);
  stack_.clear();
}

void EngineIo::answer(const PendingReport& pending) {
  const auto& running = pending.running;
  const auto unanswered = shared_.inbox.unanswered_for();
  Json content{{"status", "ok"},
               {"version", extensions::kVersion},
               {"pid", ::getpid()},
               {"host", host_name()},
               {"memory", resident_memory()},
               {"title", running ? pending.title : ""},
               {"state", running ? "busy" : "idle"},
               {"seconds", running ? seconds(*running) : 0.0},
               {"stack", stack_},
               {"generation", shared_.group_guard.generation()},
               {"collective", nullptr},
               {"collectives", 0},
               {"finished", 0},
               {"gloo_wait", seconds(gloo_waits::oldest())},
               {"cut", shared_.group_guard.was_cut()},
               {"unanswered", unanswered ? seconds(*unanswered) : 0.0},
               {"aborting", 0},
               {"gpu", nullptr}};
  if (const auto torch = shared_.group_guard.report()) {
    content["collective"] = collective_json(*torch);
    content["collectives"] = torch->collectives;
    content["finished"] = torch->finished;
    content["aborting"] = torch->aborting;
  }
  if (const auto figures = gpu_meter_.read(pending.gpu)) {
    content["gpu"] = Json{{"memory_used", figures->memory_used},
                          {"memory_total", figures->memory_total},
                          {"utilisation", figures->utilisation}};
  }
  reply(pending.request, extensions::ReportRequest::reply_type, content, Json::object());
}

}  // namespace ddipp::engine
