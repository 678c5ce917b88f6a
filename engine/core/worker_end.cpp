#include "engine/core/worker_end.hpp"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <sys/wait.h>

namespace ddipp::engine {

namespace {

std::string signal_text(int number) {
  const char* name = ::sigabbrev_np(number);
  if (name == nullptr) return "a signal without a name";
  const std::string full = "SIG" + std::string(name);
  std::string meaning = ::sigdescr_np(number);
  meaning[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(meaning[0])));
  const bool adds_something = number != SIGKILL && number != SIGTERM;
  return adds_something ? full + ", " + meaning : full;
}

std::string gibibytes(long kib) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GiB", static_cast<double>(kib) / (1024.0 * 1024.0));
  return text;
}

}  // namespace

std::string describe(const WorkerEnd& end) {
  if (!end.known) return "it was ended together with the nursery that had started it";
  if (WIFEXITED(end.status)) {
    return "it exited with code " + std::to_string(WEXITSTATUS(end.status));
  }
  const int number = WTERMSIG(end.status);
  std::string text = "it was killed by signal " + std::to_string(number) + " (";
  text += end.out_of_memory && number == SIGKILL
              ? "out of memory: the kernel ended it when it held " + gibibytes(end.peak_memory_kib)
              : signal_text(number);
  return text + ")";
}

int exit_code_of(const WorkerEnd& end) {
  return WIFEXITED(end.status) ? WEXITSTATUS(end.status) : 128 + WTERMSIG(end.status);
}

Result<RestartWhen> parse_restart(std::string_view name) {
  if (name == "never") return RestartWhen::never;
  if (name == "on-failure") return RestartWhen::on_failure;
  if (name == "always") return RestartWhen::always;
  return Failure{"--restart is never, on-failure or always, not '" + std::string(name) + "'"};
}

std::optional<std::chrono::milliseconds> RestartPolicy::next_start(const WorkerEnd& end,
                                                                   const WorkerFacts& facts,
                                                                   TimePoint started,
                                                                   TimePoint now) {
  using std::chrono::milliseconds;
  if (facts.asked_to_restart) return milliseconds(0);
  if (facts.asked_to_stop || when_ == RestartWhen::never) return std::nullopt;
  const bool failed = exit_code_of(end) != 0;
  if (when_ == RestartWhen::on_failure && (!failed || facts.gave_up || !facts.registered)) {
    return std::nullopt;
  }
  quick_deaths_ = now - started < kQuick && !facts.served ? quick_deaths_ + 1 : 0;
  if (quick_deaths_ >= kQuickDeaths && when_ == RestartWhen::on_failure) return std::nullopt;
  if (quick_deaths_ <= 1) return milliseconds(0);
  return milliseconds(500) * (1 << std::min(quick_deaths_ - 2, 6));
}

}  // namespace ddipp::engine
