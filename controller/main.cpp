// dipcontroller: wires options, log, signals and the controller.
#include <csignal>
#include <exception>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "controller/controller.hpp"
#include "controller/options.hpp"
#include "protocol/net/unique_fd.hpp"

namespace {

constexpr const char* kPattern = "%Y-%m-%d %H:%M:%S.%e [%n] %l: %v";

// Blocked before ZeroMQ starts its threads, so that only the reactor sees them.
ddipp::net::UniqueFd take_stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return ddipp::net::UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

// Every engine needs six connections, more than the usual limit of descriptors for 200 engines.
void allow_many_connections() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  const auto parsed = ddipp::controller::parse_options(argc, argv);
  if (parsed.exit_code) return *parsed.exit_code;

  ::umask(S_IRWXG | S_IRWXO);  // what it writes holds the user's code and results
  spdlog::logger log("dipcontroller", std::make_shared<spdlog::sinks::stderr_sink_st>());
  log.set_pattern(kPattern);
  log.set_level(spdlog::level::from_str(parsed.options.log_level));
  try {
    if (const auto& file = parsed.options.log_file; !file.empty()) {
      log.info("the log goes to {}", file.string());
      log.sinks() = {std::make_shared<spdlog::sinks::basic_file_sink_st>(file.string())};
      log.set_pattern(kPattern);
      log.flush_on(spdlog::level::info);
    }
    std::signal(SIGXFSZ, SIG_IGN);  // a file that can't grow is an error like a full disk
    allow_many_connections();
    const auto signal_fd = take_stop_signals();
    ddipp::controller::Controller(parsed.options, log).run(signal_fd.get());
  } catch (const std::exception& error) {
    log.critical("{}", error.what());
    return 1;
  }
  return 0;
}
