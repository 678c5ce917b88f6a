#include "engine/host/engine_io.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <sys/types.h>
#include <unistd.h>

#include "common/profile.hpp"
#include "protocol/content.hpp"

namespace ddipp::engine {

using namespace std::chrono_literals;
using protocol::Json;

namespace {

constexpr auto kHardExitDelay = 5s;
constexpr int kGaveUp = 255;

protocol::Session make_session(const HostOptions& options) {
  const auto& common = options.connection.common;
  const auto packing = protocol::packing_from_name(common.pack);
  if (!packing) throw std::runtime_error(packing.error());
  auto session = protocol::Session::make(
      {common.key, common.signature_scheme, *packing, options.uuid, user_name()});
  if (!session) throw std::runtime_error(session.error());
  return std::move(*session);
}

protocol::Timestamp wall_clock() { return std::chrono::system_clock::now(); }

}  // namespace

EngineIo::EngineIo(const HostOptions& options, Shared shared)
    : options_(options),
      shared_(shared),
      session_(make_session(options)),
      empty_object_(protocol::pack(Json::object(), session_.packing())),
      sockets_(options.connection,
               session_.signs() ? protocol::make_route(session_, options.uuid) : options.uuid),
      lifecycle_(options.lifecycle, net::Clock::now()),
      output_limit_(options.output_limit) {}

void EngineIo::run() {
  reactor_.add(sockets_.registrar,
               [this](net::Multipart& message) { on_registration_reply(message); });
  reactor_.add(shared_.outbox.event_fd(), [this] { on_outbox(); });
  reactor_.add(shared_.capture.stdout_fd(), [this] { on_captured(); });
  reactor_.add(shared_.capture.stderr_fd(), [this] { on_captured(); });
  reactor_.add(shared_.stack_sampler.read_fd(), [this] { on_stack(); });
  reactor_.add(shared_.terminate_event, [this] {
    net::clear_event(shared_.terminate_event);
    begin_stop(128 + SIGTERM, "received SIGTERM");
  });
  reactor_.on_tick([this] { return next_deadline(); },
                   [this](net::Clock::time_point now) { tick(now); });
  reactor_.run();
  sockets_.close();
}

// --- registration -----------------------------------------------------------------------------

void EngineIo::send_registration() {
  protocol::RegistrationRequest request;
  request.uuid = options_.uuid;
  request.id = id_ ? id_ : options_.id;
  if (session_.signs()) request.relay = protocol::kRelayVersion;
  send(sockets_.registrar, {}, packed_header(protocol::RegistrationRequest::type), empty_object_,
       empty_object_, protocol::pack(request, session_.packing()));
  if (id_) return;
  shared_.log.info("registering with the controller at {}", sockets_.registration_url());
  lifecycle_.on_registering(net::Clock::now());
}

void EngineIo::on_registration_reply(net::Multipart& message) {
  const auto opened = session_.open(net::views(message));
  if (!opened) {
    return give_up("the controller's answer can't be used: " +
                   std::string(protocol::describe(opened.error())) + ". The key in " +
                   options_.connection_source + " is not that of the controller at " +
                   sockets_.registration_url() + "; use the file that it wrote");
  }
  const auto reply = protocol::parse_content<protocol::RegistrationReply>(opened->content);
  if (id_) return on_known(reply ? std::optional(reply->id) : std::nullopt);
  if (!reply) {
    const auto error = protocol::parse_content<protocol::ErrorContent>(opened->content);
    return give_up("the controller refused the registration: " +
                   (error ? error->evalue : std::string("its answer makes no sense")));
  }
  id_ = reply->id;
  shared_.state.engine_id = *id_;
  if (options_.id && *options_.id != *id_) {
    shared_.log.warn("asked for id {}, got {}", *options_.id, *id_);
  }
  lifecycle_.on_registered(std::chrono::milliseconds(reply->hb_period), net::Clock::now());
  tagged_ = session_.signs() && reply->relay >= protocol::kRelayVersion;
  start_channels();
  shared_.registration.succeed(*id_);
}

// A refusal says that the uuid is in use: by this engine.
void EngineIo::on_known(std::optional<int> id) {
  if (id && *id != *id_) {
    return give_up(
        "Python took so long to start that the controller gave the engine up, and its id " +
        std::to_string(*id_) + " is another's now");
  }
  lifecycle_.on_known();
  answer_held_ping();
}

void EngineIo::start_channels() {
  sockets_.connect_channels(
      *id_, tagged_ ? protocol::make_route(session_, options_.uuid) : options_.uuid);
  reactor_.add(sockets_.control,
               [this](net::Multipart& message) { on_request(ChannelName::control, message); });
  reactor_.add(sockets_.shell,
               [this](net::Multipart& message) { on_request(ChannelName::shell, message); });
  reactor_.add(sockets_.ping, [this](net::Multipart& message) { on_ping(message); });
  reactor_.add(sockets_.monitor, [this](net::Multipart& message) { on_monitor(message); });
  reactor_.add(sockets_.iopub, [this](net::Multipart& message) { on_iopub_subscription(message); });
}

// --- heartbeats and connection ----------------------------------------------------------------

void EngineIo::on_ping(net::Multipart& message) {
  held_ping_ = std::move(message);
  answer_held_ping();
}

void EngineIo::answer_held_ping() {
  if (held_ping_.empty() || !lifecycle_.on_ping(net::Clock::now())) return;
  net::send(sockets_.pong, held_ping_);
  held_ping_.clear();
  if (lifecycle_.take_completed()) {
    shared_.state.registered = true;
    shared_.log.info("Completed registration with id {}", *id_);
  }
}

void EngineIo::on_monitor(const net::Multipart& message) {
  std::uint16_t event = 0;
  if (message.front().size() < sizeof event) return;
  std::memcpy(&event, message.front().data(), sizeof event);
  if (event == ZMQ_EVENT_CONNECTED) lifecycle_.on_connected();
  if (event == ZMQ_EVENT_DISCONNECTED && !hard_exit_at_) {
    shared_.log.warn("lost the connection to the controller; trying to reach it again");
    lifecycle_.on_disconnected(net::Clock::now());
  }
}

void EngineIo::on_iopub_subscription(const net::Multipart& message) {
  const auto frame = net::view(message.front());
  if (frame.empty() || frame.front() != '\x01') return;
  lifecycle_.on_iopub_subscribed();
  answer_held_ping();
}

// --- time and ends ----------------------------------------------------------------------------

std::optional<net::Clock::time_point> EngineIo::next_deadline() const {
  std::optional<net::Clock::time_point> earliest = lifecycle_.next_deadline();
  const auto consider = [&earliest](std::optional<net::Clock::time_point> deadline) {
    if (deadline && (!earliest || *deadline < *earliest)) earliest = deadline;
  };
  if (hard_exit_at_) earliest = hard_exit_at_;
  consider(streams_.next_deadline());
  if (pending_signal_) consider(signal_at_);
  if (!reports_.empty()) consider(reports_.front().until);
  return earliest;
}

void EngineIo::tick(net::Clock::time_point now) {
  if (const auto due = streams_.next_deadline(); due && *due <= now) send_streams();
  if (!reports_.empty() && reports_.front().until <= now) answer_reports();
  if (pending_signal_ && signal_at_ <= now) ::kill(::getpid(), *std::exchange(pending_signal_, {}));
  if (hard_exit_at_) {
    if (*hard_exit_at_ > now) return;
    shared_.log.warn("Python did not end in time; exiting without it");
    ::_exit(shared_.exit_code);
  }
  if (lifecycle_.take_renewal(now)) send_registration();
  if (const auto notice = lifecycle_.take_notice(now)) shared_.log.info("{}", *notice);
  if (const auto why = lifecycle_.tick(now)) give_up(*why);
}

void EngineIo::begin_stop(int exit_code, const std::string& why) {
  if (hard_exit_at_) return;
  shared_.log.info("stopping: {}", why);
  shared_.exit_code = exit_code;
  shared_.state.stopping = true;
  hard_exit_at_ = net::Clock::now() + kHardExitDelay;
  shared_.registration.fail(why);
  shared_.inbox.stop();
  shared_.inbox.interrupt();
}

void EngineIo::give_up(const std::string& line) {
  shared_.log.critical("{}", line);
  shared_.state.gave_up = true;
  begin_stop(kGaveUp, "the engine is of no use without its controller");
}

// --- sending ----------------------------------------------------------------------------------

std::string EngineIo::packed_header(std::string_view type) {
  return protocol::pack(session_.make_header(type, wall_clock()), session_.packing());
}

std::string EngineIo::topic(const std::string& name) const {
  return "engine." + std::to_string(id_.value_or(-1)) + "." + name;
}

void EngineIo::reply(const Request& request, const std::string& type, const Json& content,
                     const Json& metadata) {
  Json with_engine = metadata;
  with_engine["engine"] = options_.uuid;
  send(request.channel == ChannelName::control ? sockets_.control : sockets_.shell,
       request.identities, packed_header(type), net::view(request.header),
       protocol::pack(with_engine, session_.packing()),
       protocol::pack(content, session_.packing()));
}

void EngineIo::send(zmq::socket_t& socket, const std::vector<std::string>& identities,
                    const std::string& header, std::string_view parent_header,
                    const std::string& metadata, const std::string& content,
                    std::vector<zmq::message_t> buffers) {
  const std::array<std::string_view, 4> parts{header, parent_header, metadata, content};
  net::Multipart message = net::make_multipart(identities);
  message.push_back(net::make_frame(protocol::kDelimiter));
  message.push_back(net::make_frame(session_.sign(parts)));
  for (const auto part : parts) message.push_back(net::make_frame(part));
  for (auto& buffer : buffers) message.push_back(std::move(buffer));
  if (net::send(socket, message) == net::SendStatus::would_block) {
    shared_.log.warn("dropped a message: no connection to the controller");
  }
}

}  // namespace ddipp::engine
