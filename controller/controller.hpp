// The controller process: one thread, one reactor, all sockets. It feeds the pure Hub and relays
// the direct, control and iopub channels frame by frame without copying.
#pragma once

#include <string>

#include <spdlog/logger.h>
#include <zmq.hpp>

#include "controller/broadcast_channel.hpp"
#include "controller/endpoints.hpp"
#include "controller/held_messages.hpp"
#include "controller/hub.hpp"
#include "controller/options.hpp"
#include "controller/task_channel.hpp"
#include "protocol/net/reactor.hpp"

namespace ddipp::controller {

class Controller {
 public:
  // Throws std::runtime_error when a socket can't be bound or a connection file can't be written.
  Controller(const Options& options, spdlog::logger& log);
  ~Controller();
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  // Returns after SIGINT, SIGTERM or a client's shutdown_request. `signal_fd` is a signalfd.
  void run(int signal_fd);

 private:
  // One of the two channels that go to the engine a client names.
  struct Direct {
    Channel& channel;
    HeldMessages held;
  };

  void write_connection_files();
  void on_query(net::Multipart& message);
  void on_ping_subscription(const net::Multipart& message);
  void on_pong(const net::Multipart& message);
  void on_iopub(net::Multipart& message);
  void to_engine(Direct& direct, net::Multipart& message);
  void to_client(Direct& direct, net::Multipart& message);
  void refuse(Direct& direct, const net::Multipart& message);
  void relay_directly(Direct& direct);

  void tick(net::Clock::time_point now);
  net::Clock::time_point next_deadline() const;
  void run_actions();
  void perform(const Reply& action);
  void perform(const Notify& action);
  void perform(const Ping& action);
  void perform(const Stop& action);
  void perform(const Log& action);
  void send_reply(zmq::socket_t& socket, std::vector<std::string> identities,
                  const std::string& type, protocol::Json content, protocol::Json parent,
                  protocol::Json metadata = protocol::Json::object());

  Options options_;
  spdlog::logger& log_;
  std::string key_;
  protocol::Session session_;
  zmq::context_t context_;
  Endpoints endpoints_;
  Hub hub_;
  Direct mux_{endpoints_.mux, {}};
  Direct control_{endpoints_.control, {}};
  TaskChannel tasks_;
  BroadcastChannel broadcasts_;
  net::Reactor reactor_;
};

}  // namespace ddipp::controller
