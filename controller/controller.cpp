#include "controller/controller.hpp"

#include <array>
#include <cstring>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <sys/signalfd.h>
#include <system_error>
#include <unistd.h>

#include "controller/routing.hpp"
#include "launcher/random_uuid.hpp"

namespace ddipp::controller {
namespace {

using protocol::Json;

protocol::Session make_session(const Options& options, const std::string& key) {
  protocol::SessionOptions session;
  session.key = key;
  session.session_id = random_uuid();
  session.packing = *protocol::packing_from_name(options.pack);
  auto made = protocol::Session::make(std::move(session));
  if (!made) throw std::runtime_error(made.error());
  return std::move(*made);
}

HubOptions hub_options(const Options& options, const protocol::EngineConnection& engine) {
  HubOptions hub;
  hub.heart = {options.ping_period, options.max_heartbeat_misses};
  hub.registration_timeout = std::max(std::chrono::milliseconds(30'000), 10 * options.ping_period);
  hub.engine_endpoints = protocol::endpoints(engine);
  return hub;
}

TaskSchedulerOptions task_options(const Options& options) {
  TaskSchedulerOptions task;
  task.hwm = options.hwm;
  task.scheme = *scheme_from_name(options.scheme);
  task.random = [engine = std::mt19937_64(std::random_device()())]() mutable {
    return std::uniform_real_distribution<double>()(engine);
  };
  return task;
}

}  // namespace

Controller::Controller(const Options& options, spdlog::logger& log)
    : options_(options),
      log_(log),
      key_(random_uuid()),
      session_(make_session(options, key_)),
      endpoints_(context_, options, key_),
      hub_(hub_options(options, endpoints_.engine), net::Clock::now()),
      tasks_(endpoints_.task, session_, log, task_options(options)),
      broadcasts_(endpoints_.broadcast, session_, hub_.registry(), log) {
  write_connection_files();

  reactor_.add(endpoints_.query, [this](net::Multipart& message) { on_query(message); });
  reactor_.add(endpoints_.ping, [this](net::Multipart& message) { on_ping_subscription(message); });
  reactor_.add(endpoints_.pong, [this](net::Multipart& message) { on_pong(message); });
  reactor_.add(endpoints_.iopub_back, [this](net::Multipart& message) { on_iopub(message); });
  relay_directly(control_);
  relay_directly(mux_);
  reactor_.add(endpoints_.task.front, [this](net::Multipart& message) {
    tasks_.on_submission(message, net::Clock::now());
  });
  reactor_.add(endpoints_.task.back,
               [this](net::Multipart& message) { tasks_.on_result(message); });
  reactor_.add(endpoints_.broadcast.front,
               [this](net::Multipart& message) { broadcasts_.on_submission(message); });
  reactor_.add(endpoints_.broadcast.back,
               [this](net::Multipart& message) { broadcasts_.on_result(message); });
  reactor_.on_tick([this] { return std::optional(next_deadline()); },
                   [this](net::Clock::time_point now) { tick(now); });
}

Controller::~Controller() {
  for (const char* kind : {"client", "engine"}) {
    std::error_code ignored;
    std::filesystem::remove(options_.connection_file(kind), ignored);
  }
}

void Controller::write_connection_files() {
  const auto folder = options_.connection_file("client").parent_path();
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw std::runtime_error("can't create " + folder.string() + ": " + error.message());
  std::filesystem::permissions(folder, std::filesystem::perms::owner_all, error);

  const auto engine_written = protocol::write_connection_file(options_.connection_file("engine"),
                                                              protocol::to_json(endpoints_.engine));
  if (!engine_written) throw std::runtime_error(engine_written.error());
  const auto client_written = protocol::write_connection_file(options_.connection_file("client"),
                                                              protocol::to_json(endpoints_.client));
  if (!client_written) throw std::runtime_error(client_written.error());
  log_.info("connection files: {}, {}", options_.connection_file("client").string(),
            options_.connection_file("engine").string());
  if (options_.store != "none") {
    log_.warn("there is no result store yet (--{}db): queries for results get an error",
              options_.store);
  }
  log_.info("listening on {} for clients and {} for engines", options_.client_interface,
            options_.engine_interface);
}

void Controller::run(int signal_fd) {
  reactor_.add(signal_fd, [this, signal_fd] {
    signalfd_siginfo info{};
    if (::read(signal_fd, &info, sizeof info) != sizeof info) return;
    const char* name = ::strsignal(static_cast<int>(info.ssi_signo));
    hub_.on_stop_signal(std::string("signal ") + (name == nullptr ? "?" : name));
    run_actions();
  });
  reactor_.run();
}

void Controller::on_query(net::Multipart& message) {
  const auto frames = net::views(message);
  const std::string identity(frames.front());
  const auto opened = session_.open(frames);
  if (opened) {
    hub_.on_query(identity, *opened, net::Clock::now());
  } else {
    hub_.on_bad_query(identity, opened.error());
  }
  run_actions();
}

void Controller::on_ping_subscription(const net::Multipart& message) {
  const auto frame = net::view(message.front());
  if (frame.empty()) return;
  const bool subscribed = frame.front() == '\x01';
  if (const auto presence = parse_presence_topic(frame.substr(1))) {
    return hub_.on_presence(presence->uuid, subscribed, presence->local, net::Clock::now());
  }
  if (subscribed) hub_.on_heart_subscribed(net::Clock::now());
}

void Controller::on_pong(const net::Multipart& message) {
  hub_.on_pong(std::string(net::view(message.front())));
  run_actions();
}

void Controller::on_iopub(net::Multipart& message) {
  const auto frames = net::views(message);
  const auto envelope = protocol::locate(frames);
  if (envelope && looks_like_shutdown_reply(envelope->header)) {
    const auto opened = session_.open(frames);
    if (opened && opened->header.msg_type == protocol::ShutdownReply::type) {
      hub_.on_engine_shutdown(opened->header.session);
    }
  }
  net::send(endpoints_.iopub_front, message);
  run_actions();
}

void Controller::relay_directly(Direct& direct) {
  reactor_.add(direct.channel.front,
               [this, &direct](net::Multipart& message) { to_engine(direct, message); });
  reactor_.add(direct.channel.back,
               [this, &direct](net::Multipart& message) { to_client(direct, message); });
}

void Controller::to_engine(Direct& direct, net::Multipart& message) {
  if (!swap_identities(message)) return;
  const std::string engine(net::view(message.front()));
  if (!hub_.registry().find(engine)) return refuse(direct, message);
  if (!direct.held.holds_for(engine) &&
      net::send(direct.channel.back, message) == net::SendStatus::sent) {
    return;
  }
  direct.held.hold(engine, std::move(message), net::Clock::now());
}

void Controller::to_client(Direct& direct, net::Multipart& message) {
  if (swap_identities(message)) net::send(direct.channel.front, message);
}

// `message` is addressed to an engine: [engine, client, ...].
void Controller::refuse(Direct& direct, const net::Multipart& message) {
  const auto frames = net::views(message);
  const std::string engine(frames.front());
  const auto known = hub_.registry().find(engine);
  const std::string why = known ? "engine " + std::to_string(known->id) + " can't be reached"
                                : "there is no engine with uuid " + engine + " (it is gone)";
  auto reply = undeliverable_reply(frames, session_.packing(), why);
  if (!reply) return;
  log_.warn("a request could not be delivered: {}", why);
  send_reply(direct.channel.front, {reply->client, engine}, reply->header_type,
             std::move(reply->content), std::move(reply->parent_header),
             std::move(reply->metadata));
}

net::Clock::time_point Controller::next_deadline() const {
  auto earliest = hub_.next_deadline();
  for (const Direct* direct : {&mux_, &control_}) {
    if (const auto retry = direct->held.next_deadline()) earliest = std::min(earliest, *retry);
  }
  if (const auto timeout = tasks_.next_deadline()) earliest = std::min(earliest, *timeout);
  return earliest;
}

void Controller::tick(net::Clock::time_point now) {
  hub_.tick(now);
  run_actions();
  tasks_.tick(now);
  for (Direct* direct : {&mux_, &control_}) {
    direct->held.retry(
        now, [direct](net::Multipart& message) { return net::send(direct->channel.back, message); },
        [this, direct](const std::string&, net::Multipart& message) { refuse(*direct, message); });
  }
}

void Controller::run_actions() {
  for (const Action& action : hub_.take_actions()) {
    std::visit([this](const auto& what) { perform(what); }, action);
  }
}

void Controller::perform(const Reply& action) {
  send_reply(endpoints_.query, {action.identity}, action.type, action.content,
             action.parent_header);
}

void Controller::perform(const Notify& action) {
  const std::string engine = action.content.value("uuid", "");
  if (action.type == protocol::RegistrationNotification::type) tasks_.add_engine(engine);
  if (action.type == protocol::UnregistrationNotification::type) {
    tasks_.remove_engine(engine);
    broadcasts_.remove_engine(engine);
    for (Direct* direct : {&mux_, &control_}) {
      for (const auto& message : direct->held.release(engine)) refuse(*direct, message);
    }
  }
  send_reply(endpoints_.notification, {}, action.type, action.content, Json::object());
}

void Controller::perform(const Ping& action) {
  net::Multipart message;
  message.push_back(net::make_frame(action.payload));
  net::send(endpoints_.ping, message);
}

void Controller::perform(const Stop&) { reactor_.stop(); }

void Controller::perform(const Log& action) {
  switch (action.level) {
    case LogLevel::debug:
      return log_.debug(action.text);
    case LogLevel::info:
      return log_.info(action.text);
    case LogLevel::warning:
      return log_.warn(action.text);
    case LogLevel::error:
      return log_.error(action.text);
  }
}

void Controller::send_reply(zmq::socket_t& socket, std::vector<std::string> identities,
                            const std::string& type, Json content, Json parent, Json metadata) {
  protocol::Message message;
  message.identities = std::move(identities);
  message.header = session_.make_header(type, std::chrono::system_clock::now());
  message.content = std::move(content);
  message.parent_header = std::move(parent);
  message.metadata = std::move(metadata);
  net::Multipart frames = net::make_multipart(session_.seal(message));
  net::send(socket, frames);
}

}  // namespace ddipp::controller
