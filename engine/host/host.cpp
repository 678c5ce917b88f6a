// Entry of the host library: io thread on one side, the interpreter's main on the other.
#include <atomic>
#include <csignal>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <pthread.h>
#include <thread>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include "engine/host/engine_io.hpp"
#include "engine/host/host_options.hpp"
#include "engine/host/python_module.hpp"

namespace ddipp::engine {
namespace {

class FdSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FdSink(int fd) : fd_(fd) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    [[maybe_unused]] const auto written = ::write(fd_, line.data(), line.size());
  }
  void flush_() override {}

  int fd_;
};

std::atomic<int> terminate_fd{-1};
std::atomic<pid_t> engine_pid{0};

// A forked child inherits the handler; for it SIGTERM has its usual meaning.
void on_terminate(int signal) {
  if (::getpid() == engine_pid) {
    net::raise_event(terminate_fd);
    return;
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void block_all_signals() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

HostOptions parse_options(const protocol::Json& json) {
  HostOptions options;
  auto connection = protocol::parse_engine_connection(json.at("connection"));
  options.connection_source = json.at("connection_source").get<std::string>();
  if (!connection) {
    throw std::runtime_error("the connection information in " + options.connection_source +
                             " can't be used: " + connection.error());
  }
  options.connection = *connection;
  options.uuid = json.at("uuid").get<std::string>();
  if (json.at("id").is_number()) options.id = json.at("id").get<int>();
  options.log_level = json.at("log_level").get<std::string>();
  using Milliseconds = std::chrono::milliseconds;
  options.lifecycle.registration_timeout =
      Milliseconds(json.at("registration_timeout_ms").get<int>());
  options.lifecycle.controller_patience =
      Milliseconds(json.at("controller_patience_ms").get<int>());
  options.lifecycle.max_heartbeat_misses = json.at("max_heartbeat_misses").get<int>();
  options.output_limit = json.at("output_limit").get<std::size_t>();
  options.stdout_read = json.at("stdout").at(0).get<int>();
  options.stdout_write = json.at("stdout").at(1).get<int>();
  options.stderr_read = json.at("stderr").at(0).get<int>();
  options.stderr_write = json.at("stderr").at(1).get<int>();
  options.fault_fd = json.at("fault_fd").get<int>();
  return options;
}

int run(const std::string& options_json, SharedState& state, int argc, char** argv) {
  const HostOptions options = parse_options(protocol::Json::parse(options_json));
  OutputCapture capture(net::UniqueFd(options.stdout_read), net::UniqueFd(options.stdout_write),
                        net::UniqueFd(options.stderr_read), net::UniqueFd(options.stderr_write));
  spdlog::logger log("dipengine", std::make_shared<FdSink>(capture.original_stderr()));
  log.set_pattern("%Y-%m-%d %H:%M:%S.%e [%n] %l: %v");
  log.set_level(spdlog::level::from_str(options.log_level));

  Inbox inbox(pthread_self());
  Outbox outbox;
  Registration registration;
  GroupGuard group_guard;
  StackSampler stack_sampler(pthread_self());
  const net::UniqueFd terminate_event = net::make_eventfd();
  std::atomic<int> exit_code{0};
  EngineIo io(options, Shared{inbox, outbox, capture, registration, group_guard, stack_sampler, log,
                              terminate_event.get(), exit_code, state});

  terminate_fd = terminate_event.get();
  engine_pid = ::getpid();
  std::signal(SIGTERM, on_terminate);

  std::thread io_thread([&io, &log] {
    block_all_signals();
    try {
      io.run();
    } catch (const std::exception& error) {
      log.critical("the io thread failed: {}", error.what());
      ::_exit(70);
    }
  });
  const auto finish = [&] {
    outbox.push(Finish{});
    io_thread.join();
  };
  ModuleContext context{options_json,
                        options.fault_fd,
                        state,
                        inbox,
                        outbox,
                        capture,
                        registration,
                        group_guard,
                        stack_sampler,
                        log,
                        [&](int code) {
                          finish();
                          ::_exit(code != 0 ? code : exit_code.load());
                        }};
  register_module(context);
  const int code = Py_BytesMain(argc, argv);
  // Only when the Python half could not start.
  finish();
  return code;
}

}  // namespace
}  // namespace ddipp::engine

// `options_json`: see HostOptions and ddipp_engine.main. `state`: a SharedState, mapped by the
// supervisor too. `argv` as for the interpreter itself.
// Returns the exit code of the process.
extern "C" __attribute__((visibility("default"))) int ddipp_host_run(const char* options_json,
                                                                     void* state, int argc,
                                                                     char** argv) {
  try {
    return ddipp::engine::run(options_json, *static_cast<ddipp::engine::SharedState*>(state), argc,
                              argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dipengine: %s\n", error.what());
    return 1;
  }
}
