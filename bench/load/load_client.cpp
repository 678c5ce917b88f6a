#include "load/load_client.hpp"

#include <algorithm>
#include <array>
#include <deque>
#include <fstream>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "protocol/net/reactor.hpp"

namespace ddipp::load {
namespace {

using net::Clock;
using protocol::Json;
using protocol::Message;

struct Target {
  std::string uuid;
  int id = 0;
};

class Client {
 public:
  Client(const Connection& connection, const Load& load)
      : connection_(connection), load_(load), session_(connection.session()) {
    if (connection.bare) {
      for (const auto& uuid : load.engines) targets_.push_back({uuid, 0});
    } else {
      query_ = connect(connection.client.common.registration);
      const Message reply = ask("connection_request", Json::object());
      for (const auto& [id, uuid] : reply.content.at("engines").items()) {
        targets_.push_back({uuid.get<std::string>(), std::stoi(id)});
      }
    }
    if (targets_.empty()) throw std::runtime_error("there are no engines");
    const auto& ports = connection.client;
    socket_ = connect(load.channel == "task"        ? ports.task
                      : load.channel == "broadcast" ? ports.broadcast
                                                    : ports.mux);
    build();
  }

  Outcome run() {
    const bool ask_hub = !connection_.bare && load_.wait_for_hub;
    const long completed_before = ask_hub ? completed() : 0;
    replies_wanted_ = static_cast<long>(load_.requests) *
                      (load_.channel == "broadcast" ? static_cast<long>(targets_.size()) : 1);
    const auto begin = Clock::now();
    next_send_ = begin;
    while (replies_ < replies_wanted_) {
      send_due();
      receive_some();
    }
    Outcome outcome;
    outcome.answered_s = seconds_since(begin);
    while (ask_hub && completed() < completed_before + replies_wanted_) {
      if (seconds_since(begin) > 600) throw std::runtime_error("the hub never had every result");
    }
    outcome.stored_s = seconds_since(begin);
    outcome.latencies_us = std::move(latencies_us_);
    return outcome;
  }

 private:
  static double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  zmq::socket_t connect(int port) {
    zmq::socket_t socket(context_, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::sndhwm, 0);
    socket.set(zmq::sockopt::rcvhwm, 0);
    socket.set(zmq::sockopt::linger, 0);
    socket.connect(Connection::url(port));
    return socket;
  }

  Message ask(const std::string& type, Json content) {
    Message request;
    request.header = session_.make_header(type, std::chrono::system_clock::now());
    request.content = std::move(content);
    auto frames = net::make_multipart(session_.seal(request));
    net::send(query_, frames);
    while (true) {
      std::array<zmq::pollitem_t, 1> items{{{query_.handle(), 0, ZMQ_POLLIN, 0}}};
      if (zmq::poll(items, std::chrono::seconds(60)) == 0) {
        throw std::runtime_error("the hub does not answer");
      }
      net::Multipart reply;
      if (!net::receive(query_, reply)) continue;
      const auto views = net::views(reply);
      auto opened = session_.open(views);
      if (opened) return std::move(*opened);
    }
  }

  // Requests that the hub knows to be finished.
  long completed() {
    const Message reply = ask("queue_request", {{"targets", nullptr}, {"verbose", false}});
    long sum = 0;
    for (const auto& [key, value] : reply.content.items()) {
      if (value.is_object()) sum += value.value("completed", 0L);
    }
    return sum;
  }

  void build() {
    Json metadata = Json::object();
    if (load_.channel == "broadcast") {
      Json targets = Json::array();
      for (const auto& target : targets_) targets.push_back({target.uuid, target.id});
      metadata = {{"targets", targets}, {"is_broadcast", true}, {"is_coalescing", false}};
    }
    if (load_.channel == "task") {  // as the view sends it
      metadata = {{"label", nullptr}, {"after", Json::array()},   {"follow", Json::array()},
                  {"timeout", 0.0},   {"targets", Json::array()}, {"retries", 0}};
    }
    std::vector<std::string> buffers;
    for (const auto& path : load_.buffer_files) {
      std::ostringstream bytes;
      bytes << std::ifstream(path, std::ios::binary).rdbuf();
      buffers.push_back(bytes.str());
    }
    if (buffers.empty()) buffers.emplace_back(load_.buffer_bytes, 'x');
    const Json content = Json::parse(load_.content);
    for (int i = 0; i < load_.requests; ++i) {
      Message message;
      message.header = session_.make_header(load_.type, std::chrono::system_clock::now());
      message.metadata = metadata;
      if (load_.channel == "mux") {
        message.identities = {targets_[static_cast<std::size_t>(i) % targets_.size()].uuid};
      }
      message.content = content;
      for (const auto& buffer : buffers) message.buffers.emplace_back(buffer);
      requests_.push_back(net::make_multipart(session_.seal(message)));
    }
  }

  int in_flight() const {
    const auto each = load_.channel == "broadcast" ? static_cast<long>(targets_.size()) : 1L;
    return static_cast<int>(sent_ - replies_ / each);
  }

  void send_due() {
    while (!requests_.empty() && in_flight() < load_.window) {
      if (load_.rate > 0) {
        if (Clock::now() < next_send_) return;
        next_send_ += std::chrono::duration_cast<Clock::duration>(
            std::chrono::duration<double>(1 / load_.rate));
      }
      sent_at_.push_back(load_.rate > 0 ? next_send_ : Clock::now());
      net::send(socket_, requests_.front());
      requests_.pop_front();
      ++sent_;
    }
  }

  void receive_some() {
    std::array<zmq::pollitem_t, 1> items{{{socket_.handle(), 0, ZMQ_POLLIN, 0}}};
    const bool paced = load_.rate > 0 && !requests_.empty();
    zmq::poll(items, std::chrono::milliseconds(paced ? 1 : 1000));  // a spin would take a core
    net::Multipart reply;
    for (int i = 0; i < 64 && net::receive(socket_, reply); ++i) {
      ++replies_;
      if (sent_at_.empty()) continue;
      // Replies of several engines may overtake each other: over many the mean is right.
      latencies_us_.push_back(1e6 * seconds_since(sent_at_.front()));
      sent_at_.pop_front();
    }
  }

  Connection connection_;
  Load load_;
  protocol::Session session_;
  zmq::context_t context_;
  zmq::socket_t query_, socket_;
  std::vector<Target> targets_;
  std::deque<net::Multipart> requests_;
  std::deque<Clock::time_point> sent_at_;
  std::vector<double> latencies_us_;
  Clock::time_point next_send_;
  long sent_ = 0;
  long replies_ = 0;
  long replies_wanted_ = 0;
};

}  // namespace

Outcome run_load(const Connection& connection, const Load& load) {
  return Client(connection, load).run();
}

}  // namespace ddipp::load
