#include "engine/host/host.hpp"

#include <array>
#include <atomic>
#include <csignal>
#include <exception>
#include <fcntl.h>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <sys/prctl.h>
#include <thread>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include "engine/border/host_options.hpp"
#include "engine/host/engine_io.hpp"

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

// What the descriptor holds, from its beginning; closes it.
std::string read_file(int fd) {
  const net::UniqueFd file(fd);
  std::string text;
  std::array<char, 4096> buffer{};
  off_t offset = 0;
  for (ssize_t got = 0; (got = ::pread(file.get(), buffer.data(), buffer.size(), offset)) > 0;
       offset += got) {
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

SharedState& take_state(int fd) {
  const net::UniqueFd file(fd);
  return *map_shared_state(file.get());
}

// The programs that the user's code starts are not to hold these open.
void close_on_exec(const HostOptions& options) {
  for (const int fd : {options.stdout_read, options.stdout_write, options.stderr_read,
                       options.stderr_write, options.fault_fd}) {
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
}

// The C++ half of the engine. Lives as long as the process: other threads may be in it whenever
// that ends.
class Host {
 public:
  Host(const std::string& options_json, SharedState& state)
      : options_(parse_options(protocol::Json::parse(options_json))),
        capture_(net::UniqueFd(options_.stdout_read), net::UniqueFd(options_.stdout_write),
                 net::UniqueFd(options_.stderr_read), net::UniqueFd(options_.stderr_write)),
        log_("dipengine", std::make_shared<FdSink>(capture_.original_stderr())),
        io_(options_, Shared{inbox_, debug_inbox_, outbox_, capture_, registration_, group_guard_,
                             stack_sampler_, log_, terminate_event_.get(), exit_code_, state}),
        context_{options_json, options_.fault_fd, state,    inbox_,
                 debug_inbox_, outbox_,           capture_, registration_,
                 group_guard_, stack_sampler_,    log_,     [this](int code) { exit(code); }} {
    close_on_exec(options_);
    log_.set_pattern("%Y-%m-%d %H:%M:%S.%e [%n] %l: %v");
    log_.set_level(spdlog::level::from_str(options_.log_level));
    ::prctl(PR_SET_NAME, "dipengine");
    terminate_fd = terminate_event_.get();
    engine_pid = ::getpid();
    std::signal(SIGTERM, on_terminate);
    io_thread_ = std::thread([this] { serve(); });
  }

  ModuleContext& context() { return context_; }

  // Ends the io thread, once; what Python has posted is sent before.
  void finish() {
    if (!io_thread_.joinable() || ::getpid() != engine_pid) return;
    outbox_.push(Finish{});
    io_thread_.join();
  }

 private:
  void serve() {
    block_all_signals();
    try {
      io_.run();
    } catch (const std::exception& error) {
      log_.critical("the io thread failed: {}", error.what());
      ::_exit(70);
    }
  }

  [[noreturn]] void exit(int code) {
    finish();
    ::_exit(code != 0 ? code : exit_code_.load());
  }

  HostOptions options_;
  OutputCapture capture_;
  spdlog::logger log_;
  Inbox inbox_{pthread_self()};
  Inbox debug_inbox_{pthread_self()};
  Outbox outbox_;
  Registration registration_;
  GroupGuard group_guard_;
  StackSampler stack_sampler_{pthread_self()};
  net::UniqueFd terminate_event_ = net::make_eventfd();
  std::atomic<int> exit_code_{0};
  EngineIo io_;
  ModuleContext context_;
  std::thread io_thread_;
};

Host* host = nullptr;

}  // namespace

ModuleContext& start_host(int options_fd, int state_fd) {
  if (host != nullptr) throw std::runtime_error("the engine has been started before");
  SharedState& state = take_state(state_fd);
  host = new Host(read_file(options_fd), state);  // NOLINT: lives as long as the process
  return host->context();
}

void finish_host() {
  if (host != nullptr) host->finish();
}

}  // namespace ddipp::engine
