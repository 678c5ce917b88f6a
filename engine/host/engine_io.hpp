// The io thread of an engine: owns every socket, answers heartbeats and control requests, signs and
// sends what Python produces, and never needs the GIL. A rank deep in C code or in a collective
// still answers.
#pragma once

#include <atomic>
#include <optional>
#include <span>
#include <string>

#include <spdlog/logger.h>

#include "engine/border/host_options.hpp"
#include "engine/border/shared_state.hpp"
#include "engine/border/sockets.hpp"
#include "engine/core/lifecycle.hpp"
#include "engine/core/output_history.hpp"
#include "engine/core/output_limit.hpp"
#include "engine/core/stream_coalescer.hpp"
#include "engine/host/gpu_meter.hpp"
#include "engine/host/group_guard.hpp"
#include "engine/host/inbox.hpp"
#include "engine/host/outbox.hpp"
#include "engine/host/output_capture.hpp"
#include "engine/host/registration.hpp"
#include "engine/host/stack_sampler.hpp"
#include "protocol/net/reactor.hpp"
#include "protocol/relay_tag.hpp"
#include "protocol/session.hpp"

namespace ddipp::engine {

// What the io thread shares with the rest of the process; everything in it is thread-safe.
struct Shared {
  Inbox& inbox;
  Inbox& debug_inbox;  // of a thread that works while Python's main thread is at a breakpoint
  Outbox& outbox;
  const OutputCapture& capture;
  Registration& registration;
  GroupGuard& group_guard;
  StackSampler& stack_sampler;
  spdlog::logger& log;
  int terminate_event;          // raised by the SIGTERM handler
  std::atomic<int>& exit_code;  // of the process
  SharedState& state;           // what the supervisor gets to know
};

class EngineIo {
 public:
  // Throws std::runtime_error when the connection can't be used.
  EngineIo(const HostOptions& options, Shared shared);

  // The thread's body: registers, serves, and returns after Python's Finish.
  void run();

 private:
  void send_registration();
  void on_registration_reply(net::Multipart& message);
  void on_known(std::optional<int> id);
  void start_channels();

  void on_ping(net::Multipart& message);
  void answer_held_ping();
  void on_monitor(const net::Multipart& message);
  void on_iopub_subscription(const net::Multipart& message);
  void on_request(ChannelName channel, net::Multipart& message);
  // Takes what was written to descriptors 1 and 2.
  void on_captured();
  void on_captured(int fd, const char* name, std::string& incomplete);
  void on_outbox();
  void tick(net::Clock::time_point now);
  std::optional<net::Clock::time_point> next_deadline() const;

  void handle(Post& post);
  void handle(StreamWrite& write);
  void handle(const BindKernel& bind);
  void handle(const Register&);
  void handle(const Flush&);
  void handle(const PythonReady&);
  void handle(const Aborted& aborted);
  void handle(const Finish&);

  // Of a verified message: whether it came by the controller as it is, and once.
  bool admitted(const protocol::Verified& message, std::span<const std::string_view> frames);
  void on_control(Request& request);
  void with_status(Request& request, void (EngineIo::*handler)(Request&));
  void interrupt_request(Request& request);
  void abort_request(Request& request);
  void signal_request(Request& request);
  void shutdown_request(Request& request);
  void cut_request(Request& request);
  void replay_request(Request& request);
  void report_request(Request& request);
  void answer_aborted(const Request& request);
  void publish_status(const Request& request, const char* state);
  // The failure of a request that the end of the engine has interrupted.
  bool is_interrupted_by_the_end(const Post& post) const;
  void say_goodbye();
  void reply(const Request& request, const std::string& type, const protocol::Json& content,
             const protocol::Json& metadata);

  void send(zmq::socket_t& socket, const std::vector<std::string>& identities,
            const std::string& header, std::string_view parent_header, const std::string& metadata,
            const std::string& content, std::vector<zmq::message_t> buffers = {});
  void send_streams();
  void send_stream(const StreamText& stream);
  BoundPorts bind_kernel();
  std::string packed_header(std::string_view type);
  std::string topic(const std::string& name) const;

  struct PendingReport {
    Request request;
    std::string gpu;
    std::optional<std::chrono::nanoseconds> running;  // how long a request has, when it was asked
    std::string title;
    net::Clock::time_point until;  // then it is answered without the stack
  };
  void on_stack();
  void answer_reports();
  void answer(const PendingReport& pending);

  // Python gets the chance to end by itself; then the process ends anyway.
  void begin_stop(int exit_code, const std::string& why);
  void give_up(const std::string& line);

  HostOptions options_;
  Shared shared_;
  protocol::Session session_;
  std::string empty_object_;  // packed {}
  Sockets sockets_;
  net::Reactor reactor_;
  Lifecycle lifecycle_;
  StreamCoalescer streams_;
  OutputLimit output_limit_;
  OutputHistory history_;
  std::string stdout_rest_, stderr_rest_;  // the beginning of a character, the rest still to come
  std::optional<int> id_;
  bool tagged_ = false;  // the controller is ours: its requests have relay tags
  protocol::RelayCheck relay_check_;
  net::Multipart held_ping_;  // came before the engine was ready; answered as soon as it is
  GpuMeter gpu_meter_;
  std::vector<PendingReport> reports_;  // wait for stack_
  std::string stack_;
  std::optional<int> pending_signal_;
  net::Clock::time_point signal_at_;
  std::optional<net::Clock::time_point> hard_exit_at_;
  std::string shutdown_asked_by_;  // header of the request
  std::string shutdown_reply_;     // content
};

}  // namespace ddipp::engine
