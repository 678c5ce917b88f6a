#include "engine/host/engine_io.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <sys/types.h>
#include <unistd.h>

#include "engine/host/engine_replies.hpp"
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
  auto session =
      protocol::Session::make({common.key, common.signature_scheme, *packing, options.uuid});
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
      sockets_(options.connection, options.uuid),
      lifecycle_(options.lifecycle, net::Clock::now()) {}

void EngineIo::run() {
  reactor_.add(sockets_.registrar,
               [this](net::Multipart& message) { on_registration_reply(message); });
  reactor_.add(shared_.outbox.event_fd(), [this] { on_outbox(); });
  reactor_.add(shared_.capture.stdout_fd(),
               [this] { on_captured(shared_.capture.stdout_fd(), "stdout"); });
  reactor_.add(shared_.capture.stderr_fd(),
               [this] { on_captured(shared_.capture.stderr_fd(), "stderr"); });
  reactor_.add(shared_.terminate_event, [this] {
    net::clear_event(shared_.terminate_event);
    begin_stop(128 + SIGTERM, "received SIGTERM");
  });
  reactor_.on_tick([this] { return next_deadline(); },
                   [this](net::Clock::time_point now) { tick(now); });
  send_registration();
  reactor_.run();
  sockets_.close();
}

// --- registration -----------------------------------------------------------------------------

void EngineIo::send_registration() {
  protocol::RegistrationRequest request;
  request.uuid = options_.uuid;
  request.id = options_.id;
  send(sockets_.registrar, {}, packed_header(protocol::RegistrationRequest::type), empty_object_,
       empty_object_, protocol::pack(request, session_.packing()));
  shared_.log.info("registering with the controller at {}", sockets_.registration_url());
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
  if (!reply) {
    const auto error = protocol::parse_content<protocol::ErrorContent>(opened->content);
    return give_up("the controller refused the registration: " +
                   (error ? error->evalue : std::string("its answer makes no sense")));
  }
  id_ = reply->id;
  if (options_.id && *options_.id != *id_) {
    shared_.log.warn("asked for id {}, got {}", *options_.id, *id_);
  }
  lifecycle_.on_registered(std::chrono::milliseconds(reply->hb_period), net::Clock::now());
  start_channels();
  shared_.registration.succeed(*id_);
}

void EngineIo::start_channels() {
  sockets_.connect_channels(*id_);
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

// --- requests ---------------------------------------------------------------------------------

void EngineIo::on_request(ChannelName channel, net::Multipart& message) {
  const auto frames = net::views(message);
  const auto envelope = session_.verify(frames);
  if (!envelope) {
    return shared_.log.warn("ignored a request: {}", protocol::describe(envelope.error()));
  }
  const auto header = protocol::unpack(envelope->header, session_.packing());
  const auto parsed = header ? protocol::parse_header(*header) : Failure{header.error()};
  if (!parsed) return shared_.log.warn("ignored a request: {}", parsed.error());

  Request request;
  request.channel = channel;
  request.msg_type = parsed->msg_type;
  request.msg_id = parsed->msg_id;
  for (std::size_t i = 0; i < envelope->delimiter; ++i) request.identities.emplace_back(frames[i]);
  const std::size_t first = envelope->delimiter + 2;
  request.header = std::move(message[first]);
  request.parent_header = std::move(message[first + 1]);
  request.metadata = std::move(message[first + 2]);
  request.content = std::move(message[first + 3]);
  for (std::size_t i = envelope->first_buffer; i < message.size(); ++i) {
    request.buffers.push_back(std::move(message[i]));
  }
  if (channel == ChannelName::control) return on_control(request);
  if (shared_.inbox.aborted_in_advance(request.msg_id)) return answer_aborted(request);
  shared_.inbox.push(std::move(request));
}

void EngineIo::on_control(Request& request) {
  const std::string& type = request.msg_type;
  if (type == protocol::AbortRequest::type) return abort_request(request);
  if (type == protocol::SignalRequest::type) return signal_request(request);
  if (type == protocol::ShutdownRequest::type) return shutdown_request(request);
  if (type == protocol::InterruptRequest::type) {
    shared_.inbox.interrupt();
    return reply(request, "interrupt_reply", protocol::OkReply{}, Json::object());
  }
  if (type == "ddipp_cut_request") return cut_request(request);
  shared_.inbox.push(std::move(request));
}

// Ours: frees a rank that waits in a collective of the generation that the client means.
void EngineIo::cut_request(Request& request) {
  const auto json = protocol::unpack(net::view(request.content), session_.packing());
  if (!json || !json->is_object() || !json->value("generation", Json()).is_number_integer()) {
    return reply(request, "ddipp_cut_reply",
                 protocol::error_content("ValueError", "no generation given"), Json::object());
  }
  const auto count = shared_.socket_guard.cut(json->at("generation").get<int>());
  reply(request, "ddipp_cut_reply", Json{{"status", "ok"}, {"connections", count}}, Json::object());
}

void EngineIo::abort_request(Request& request) {
  const auto json = protocol::unpack(net::view(request.content), session_.packing());
  const auto content = protocol::parse_content<protocol::AbortRequest>(json ? *json : Json());
  if (content) {
    for (const Request& aborted : shared_.inbox.remove(content->msg_ids)) answer_aborted(aborted);
  }
  reply(request, "abort_reply", protocol::OkReply{}, Json::object());
}

void EngineIo::signal_request(Request& request) {
  const auto json = protocol::unpack(net::view(request.content), session_.packing());
  const auto content = protocol::parse_content<protocol::SignalRequest>(json ? *json : Json());
  const auto number = content ? signal_number(*content) : std::nullopt;
  if (!number) {
    return reply(request, "signal_reply",
                 protocol::error_content("ValueError", "there is no such signal"), Json::object());
  }
  shared_.log.info("asked for signal {}", *number);
  reply(request, "signal_reply", protocol::OkReply{}, Json::object());
  if (*number == SIGINT) shared_.inbox.interrupt();
  if (*number == SIGINT || *number == 0) return;  // 0 asks only whether the engine is there
  // A deadly signal waits until the reply is on its way.
  pending_signal_ = *number;
  signal_at_ = net::Clock::now() + 20ms;
}

void EngineIo::shutdown_request(Request& request) {
  const auto json = protocol::unpack(net::view(request.content), session_.packing());
  const auto content = protocol::parse_content<protocol::ShutdownRequest>(json ? *json : Json());
  protocol::ShutdownReply answer;
  answer.restart = content && content->restart;
  reply(request, protocol::ShutdownReply::type, answer, Json::object());
  // The hub listens here and tells the clients.
  send(sockets_.iopub, {topic("shutdown")}, packed_header(protocol::ShutdownReply::type),
       net::view(request.header),
       protocol::pack(Json{{"engine", options_.uuid}}, session_.packing()),
       protocol::pack(answer, session_.packing()));
  begin_stop(0, "a client asked for shutdown");
}

void EngineIo::answer_aborted(const Request& request) {
  const auto metadata = protocol::unpack(net::view(request.metadata), session_.packing());
  reply(request, protocol::reply_type(request.msg_type), Json{{"status", "aborted"}},
        aborted_metadata(metadata ? *metadata : Json(), options_.uuid, wall_clock()));
}

// --- what Python produced ---------------------------------------------------------------------

void EngineIo::on_outbox() {
  for (Outgoing& outgoing : shared_.outbox.take_all()) {
    std::visit([this](auto& what) { handle(what); }, outgoing);
  }
}

void EngineIo::handle(Post& post) {
  // Everything that was written before this message goes out before it.
  on_captured(shared_.capture.stdout_fd(), "stdout");
  on_captured(shared_.capture.stderr_fd(), "stderr");
  send_streams();
  if (!id_) return;
  zmq::socket_t& socket = post.channel == ChannelName::shell     ? sockets_.shell
                          : post.channel == ChannelName::control ? sockets_.control
                                                                 : sockets_.iopub;
  send(socket, post.identities, post.header.empty() ? packed_header(post.msg_type) : post.header,
       post.parent_header, post.metadata, post.content, std::move(post.buffers));
}

void EngineIo::handle(StreamWrite& write) {
  streams_.write(write.name, write.parent_header, write.text, net::Clock::now());
}

void EngineIo::handle(const Flush&) {
  on_captured(shared_.capture.stdout_fd(), "stdout");
  on_captured(shared_.capture.stderr_fd(), "stderr");
  send_streams();
}

void EngineIo::handle(const PythonReady&) {
  lifecycle_.on_python_ready();
  answer_held_ping();
}

void EngineIo::handle(const Aborted& aborted) {
  for (const Request& request : aborted.requests) answer_aborted(request);
}

void EngineIo::handle(const Finish&) {
  handle(Flush{});
  shared_.outbox.close();
  if (id_) {
    send(sockets_.registrar, {}, packed_header(protocol::UnregistrationRequest::type),
         empty_object_, empty_object_,
         protocol::pack(protocol::UnregistrationRequest{*id_}, session_.packing()));
  }
  reactor_.stop();
}

void EngineIo::on_captured(int fd, const char* name) {
  const std::string text = OutputCapture::drain(fd);
  if (text.empty()) return;
  if (!id_) {  // nobody to send it to yet
    [[maybe_unused]] const auto written =
        ::write(shared_.capture.original_stderr(), text.data(), text.size());
    return;
  }
  streams_.write(name, shared_.capture.parent_header(), text, net::Clock::now());
}

void EngineIo::send_streams() {
  for (const StreamText& stream : streams_.take(net::Clock::now())) {
    send(sockets_.iopub, {topic(stream.name)}, packed_header(protocol::StreamContent::type),
         stream.parent_header.empty() ? empty_object_ : stream.parent_header,
         protocol::pack(Json{{"engine", options_.uuid}}, session_.packing()),
         protocol::pack(protocol::StreamContent{stream.name, stream.text}, session_.packing()));
  }
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
  return earliest;
}

void EngineIo::tick(net::Clock::time_point now) {
  if (const auto due = streams_.next_deadline(); due && *due <= now) send_streams();
  if (pending_signal_ && signal_at_ <= now) ::kill(::getpid(), *std::exchange(pending_signal_, {}));
  if (hard_exit_at_) {
    if (*hard_exit_at_ > now) return;
    shared_.log.warn("Python did not end in time; exiting without it");
    ::_exit(shared_.exit_code);
  }
  if (const auto why = lifecycle_.tick(now)) give_up(*why);
}

void EngineIo::begin_stop(int exit_code, const std::string& why) {
  if (hard_exit_at_) return;
  shared_.log.info("stopping: {}", why);
  shared_.exit_code = exit_code;
  hard_exit_at_ = net::Clock::now() + kHardExitDelay;
  shared_.registration.fail(why);
  shared_.inbox.stop();
  shared_.inbox.interrupt();
}

void EngineIo::give_up(const std::string& line) {
  shared_.log.critical("{}", line);
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
