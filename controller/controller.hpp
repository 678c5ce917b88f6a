// The controller process: one thread, one reactor, all sockets. It feeds the pure Hub and the
// channels, and does what the Hub decides.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <spdlog/logger.h>
#include <zmq.hpp>

#include "controller/client_watch.hpp"
#include "controller/core/hub.hpp"
#include "controller/core/output_gate.hpp"
#include "controller/core/ration.hpp"
#include "controller/dask.hpp"
#include "controller/endpoints.hpp"
#include "controller/metrics.hpp"
#include "controller/options.hpp"
#include "controller/relays/broadcast_channel.hpp"
#include "controller/relays/direct_channel.hpp"
#include "controller/relays/output_recorder.hpp"
#include "controller/relays/task_channel.hpp"
#include "protocol/net/reactor.hpp"

namespace ddipp::controller {

class Controller {
 public:
  // Throws std::runtime_error when a socket can't be bound or a file can't be written.
  Controller(const Options& options, spdlog::logger& log);
  ~Controller();
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  // Returns after SIGINT, SIGTERM or a client's shutdown_request. `signal_fd` is a signalfd.
  void run(int signal_fd);

 private:
  using Handler = std::function<void(net::Multipart&, net::Clock::time_point)>;

  void write_connection_files();
  void connect_sockets();
  // What `handler` throws ends the message, not the controller.
  Handler careful(const char* channel, Handler handler);
  // `channel` and `from` are for the metrics.
  void listen(zmq::socket_t& socket, const char* channel, const char* from, Handler handler);
  void restore();
  void on_query(net::Multipart& message, net::Clock::time_point now);
  void on_clients_changed(net::Clock::time_point now);
  // Gives memory back that a flood left free.
  void trim_memory(net::Clock::time_point now);
  void on_ping_subscription(const net::Multipart& message, net::Clock::time_point now);
  void on_pong(const net::Multipart& message, net::Clock::time_point now);
  void on_client_subscription(const net::Multipart& message, net::Clock::time_point now);
  void on_iopub(net::Multipart& message, net::Clock::time_point now);
  void on_output_subscription(const net::Multipart& message, net::Clock::time_point now);
  // The uuid of the engine that an identity or presence topic names, nothing for a pretender.
  std::optional<std::string> sender(std::string_view identity) const;
  void mind_handover();
  void pass_output_on(net::Clock::time_point now);
  void release_output();

  void tick(net::Clock::time_point now);
  net::Clock::time_point next_deadline() const;
  void run_actions();
  void perform(const Reply& action);
  void perform(const Notify& action);
  void perform(const Ping& action);
  void perform(const AnswerAll& action);
  void perform(const Stop& action);
  void perform(const EngineJoined& action);
  void perform(const EngineRetired& action);
  void perform(const EngineLost& action);
  void perform(const ShutDownEngines& action);
  void perform(const EndCells& action);
  void perform(const Resubmit& action);
  void perform(const Dask& action);
  void perform(const Log& action);
  void engines_changed();
  void save_engines();
  net::Multipart make_message(std::vector<std::string> identities, const std::string& type,
                              protocol::Json content, protocol::Json parent,
                              const std::vector<protocol::Blob>& buffers = {});
  void send_control(const std::string& engine, const std::string& type, protocol::Json content);
  void send_reply(zmq::socket_t& socket, std::vector<std::string> identities,
                  const std::string& type, protocol::Json content, protocol::Json parent,
                  const std::vector<protocol::Blob>& buffers = {});

  Options options_;
  spdlog::logger& log_;
  ConnectionPlan plan_;
  protocol::Session session_;
  Guards guards_;
  Complaints complaints_;
  zmq::context_t context_;
  Endpoints endpoints_;
  ClientWatch client_watch_;
  std::unique_ptr<Store> store_;
  NoStore no_store_;
  Ledger ledger_{*store_};
  Ledger control_ledger_{no_store_};
  Hub hub_;
  ChannelServices services_;
  DirectChannel mux_, control_;
  TaskChannel tasks_;
  BroadcastChannel broadcasts_;
  OutputRecorder recorder_;
  OutputGate output_gate_;
  bool handover_ = true;
  bool subscribed_ = false;          // somebody is, to notifications
  std::pair<bool, bool> clients_{};  // whether somebody is there, and one who has the key
  Ration answers_to_strangers_{10};
  net::Clock::time_point next_trim_;
  std::vector<net::Multipart> held_output_;  // in order, while the gate is shut
  std::unique_ptr<Metrics> metrics_;
  net::Clock::time_point next_metrics_;
  std::optional<net::Clock::time_point> save_engines_at_;
  net::Reactor reactor_;
  DaskScheduler dask_;
};

}  // namespace ddipp::controller
