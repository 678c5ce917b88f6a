// A small event loop over zmq_poll: ZeroMQ sockets and plain file descriptors, level-triggered.
// One thread runs it and owns everything that is registered.
//
// (zmq::active_poller_t needs libzmq's draft API, which distributions do not build.)
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <zmq.hpp>

#include "protocol/net/multipart.hpp"

namespace ddipp::net {

using Clock = std::chrono::steady_clock;

class Reactor {
 public:
  using MessageHandler = std::function<void(Multipart&)>;
  using FdHandler = std::function<void()>;
  using DeadlineSource = std::function<std::optional<Clock::time_point>()>;

  // The socket must outlive the reactor or be removed first.
  void add(zmq::socket_t& socket, MessageHandler handler);
  void add(int fd, FdHandler handler);
  void remove(zmq::socket_t& socket);
  void remove(int fd);

  // Asked before every wait for the next moment at which on_tick() has work.
  void on_tick(DeadlineSource next_deadline, std::function<void(Clock::time_point)> tick);

  // Waits once, at most until the next deadline, and dispatches what is ready. Each socket gets at
  // most kBurst messages a turn, so that a flood on one does not starve the others.
  void turn();

  void run();                        // turns until stop()
  void stop() { running_ = false; }  // from a handler

 private:
  static constexpr int kBurst = 64;

  struct Source {
    zmq::socket_t* socket = nullptr;
    int fd = -1;
    MessageHandler on_message;
    FdHandler on_readable;
    bool removed = false;
  };

  std::chrono::milliseconds wait_time() const;
  void dispatch(Source& source);
  void sweep();

  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<zmq::pollitem_t> items_;
  DeadlineSource next_deadline_;
  std::function<void(Clock::time_point)> tick_;
  bool changed_ = true;
  bool running_ = true;
};

}  // namespace ddipp::net
