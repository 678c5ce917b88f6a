#include "load/simulated_engines.hpp"

#include <cstdio>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

#include "protocol/net/reactor.hpp"
#include "protocol/relay_tag.hpp"

namespace ddipp::load {
namespace {

using net::Clock;
using protocol::Json;

struct Sockets {
  std::vector<zmq::socket_t> requests;  // mux, task, broadcast
  zmq::socket_t pong;
};

class Engines {
 public:
  Engines(const Connection& connection, int count)
      : connection_(connection), session_(connection.session()) {
    context_.set(zmq::ctxopt::max_sockets, 8 * count + 64);
    context_.set(zmq::ctxopt::io_threads, 1);
    for (int i = 0; i < count; ++i) uuids_.push_back(random_uuid());
    if (connection.bare) {
      for (const auto& uuid : uuids_) engines_.push_back(make(uuid, uuid, 0));
      announce();
    } else {
      register_all();
    }
  }

  [[noreturn]] void run() {
    while (true) reactor_.turn();
  }

 private:
  void announce() {
    const std::chrono::duration<double> seconds = Clock::now() - begin_;
    std::printf("ready %.4f\n", seconds.count());
    for (const auto& uuid : uuids_) std::printf("%s\n", uuid.c_str());
    std::fflush(stdout);
  }

  zmq::socket_t connect(zmq::socket_type type, const std::string& identity, int port) {
    zmq::socket_t socket(context_, type);
    socket.set(zmq::sockopt::sndhwm, 0);
    socket.set(zmq::sockopt::rcvhwm, 0);
    socket.set(zmq::sockopt::linger, 0);
    if (!identity.empty()) socket.set(zmq::sockopt::routing_id, identity);
    socket.connect(Connection::url(port));
    return socket;
  }

  std::unique_ptr<Sockets> make(const std::string& uuid, const std::string& identity, int id) {
    auto sockets = std::make_unique<Sockets>();
    const auto& ports = connection_.engine;
    std::vector<int> wanted{ports.mux};
    if (!connection_.bare) {
      wanted.push_back(ports.task);
      wanted.push_back(ports.broadcast[static_cast<std::size_t>(id) % ports.broadcast.size()]);
    }
    sockets->requests.reserve(wanted.size());
    for (const int port : wanted) {
      auto& socket =
          sockets->requests.emplace_back(connect(zmq::socket_type::dealer, identity, port));
      reactor_.add(socket, [this, &socket, uuid](net::Multipart& request) {
        answer(socket, uuid, request);
      });
    }
    if (!connection_.bare) {
      sockets->pong = connect(zmq::socket_type::dealer, identity, ports.hb_pong);
    }
    return sockets;
  }

  void register_all() {
    const auto& ports = connection_.engine;
    query_ = connect(zmq::socket_type::dealer, "", ports.common.registration);
    notification_ = connect(zmq::socket_type::sub, "", connection_.client.notification);
    notification_.set(zmq::sockopt::subscribe, "");
    reactor_.add(query_, [this](net::Multipart& message) { on_reply(message); });
    reactor_.add(notification_, [this](net::Multipart& message) { on_notification(message); });
    for (const auto& uuid : uuids_) {
      protocol::Message request;
      request.header =
          session_.make_header("registration_request", std::chrono::system_clock::now());
      request.content = Json{{"uuid", uuid}};
      if (session_.signs()) request.content["ddipp_relay"] = protocol::kRelayVersion;
      auto frames = net::make_multipart(session_.seal(request));
      net::send(query_, frames);
      unregistered_.insert(uuid);
    }
  }

  // The replies come in the order of the requests.
  void on_reply(const net::Multipart& message) {
    const auto frames = net::views(message);
    const auto reply = session_.open(frames);
    if (!reply || reply->header.msg_type != "registration_reply") return;
    const auto& uuid = uuids_[engines_.size()];
    const bool ours = reply->content.contains("ddipp_relay");
    engines_.push_back(make(uuid, ours ? protocol::make_route(session_, uuid) : uuid,
                            reply->content.value("id", 0)));
    if (engines_.size() < uuids_.size()) return;
    ping_ = connect(zmq::socket_type::sub, "", connection_.engine.hb_ping);
    ping_.set(zmq::sockopt::subscribe, "");
    reactor_.add(ping_, [this](net::Multipart& ping) {
      for (auto& engine : engines_) {
        net::Multipart pong;
        pong.emplace_back().copy(ping.back());
        net::send(engine->pong, pong);
      }
    });
  }

  void on_notification(const net::Multipart& message) {
    const auto frames = net::views(message);
    const auto note = session_.open(frames);
    if (!note || note->header.msg_type != "registration_notification") return;
    unregistered_.erase(note->content.value("uuid", ""));
    if (unregistered_.empty() && !std::exchange(announced_, true)) announce();
  }

  void answer(zmq::socket_t& socket, const std::string& uuid, net::Multipart& request) {
    const auto frames = net::views(request);
    const auto envelope = session_.reopen(frames);
    if (!envelope) return;
    if (date_uses_++ % 64 == 0) {
      date_ = protocol::iso8601(std::chrono::system_clock::now());
    }
    const std::string header = R"({"msg_id": ")" + uuid + "_" + std::to_string(++replies_) +
                               R"(", "msg_type": "apply_reply", "username": "load", "session": ")" +
                               uuid + R"(", "date": ")" + date_ + R"(", "version": "5.3"})";
    std::string metadata = R"({"engine": ")" + uuid + R"(", "status": "ok", "started": ")" + date_ +
                           R"(", "dependencies_met": true)";
    const std::string_view asked = envelope->metadata;
    if (asked.find("original_msg_id") != std::string_view::npos) {
      const auto parsed = protocol::unpack(asked, protocol::Packing::json);
      for (const char* key : {"original_msg_id", "is_broadcast", "is_coalescing"}) {
        if (parsed && parsed->contains(key)) {
          metadata += std::string(", \"") + key + "\": " + (*parsed)[key].dump();
        }
      }
    }
    metadata += "}";
    const std::string content = R"({"status": "ok"})";
    const std::array<std::string_view, 4> parts{header, envelope->header, metadata, content};
    net::Multipart reply;
    for (std::size_t i = 0; i <= envelope->delimiter; ++i) {
      if (!protocol::is_relay_tag(frames[i])) reply.push_back(std::move(request[i]));
    }
    reply.push_back(net::make_frame(session_.sign(parts)));
    for (const auto part : parts) reply.push_back(net::make_frame(part));
    reply.push_back(net::make_frame(std::string_view("\x80\x04N.", 4)));  // pickled None
    net::send(socket, reply);
  }

  Connection connection_;
  protocol::Session session_;
  zmq::context_t context_;
  std::vector<std::string> uuids_;
  std::vector<std::unique_ptr<Sockets>> engines_;
  std::set<std::string> unregistered_;
  zmq::socket_t query_, notification_, ping_;
  net::Reactor reactor_;
  Clock::time_point begin_ = Clock::now();
  std::string date_;
  unsigned long date_uses_ = 0;
  unsigned long replies_ = 0;
  bool announced_ = false;
};

}  // namespace

void run_engines(const Connection& connection, int count) { Engines(connection, count).run(); }

}  // namespace ddipp::load
