#include "controller/controller.hpp"

#include <csignal>
#include <cstring>
#include <filesystem>
#include <malloc.h>
#include <random>
#include <stdexcept>
#include <sys/signalfd.h>
#include <system_error>
#include <unistd.h>

#include "common/profile.hpp"
#include "common/random_uuid.hpp"
#include "controller/core/routing.hpp"
#include "controller/engines_file.hpp"
#include "controller/stores/sqlite_store.hpp"
#include "protocol/extensions.hpp"
#include "protocol/net/shared_frame.hpp"
#include "protocol/relay_tag.hpp"

namespace ddipp::controller {
namespace {

using protocol::Json;

constexpr std::chrono::milliseconds kSaveDelay{50};
constexpr std::chrono::milliseconds kMetricsPeriod{500};
constexpr std::chrono::seconds kTrimPeriod{5};
constexpr std::size_t kTrimAbove = std::size_t{64} << 20U;  // bytes that are free and kept

protocol::Session make_session(const ConnectionPlan& plan) {
  const auto& common = plan.engine.common;
  protocol::SessionOptions session;
  session.key = common.key;
  session.signature_scheme = common.signature_scheme;
  session.session_id = random_uuid();
  const auto packing = protocol::packing_from_name(common.pack);
  if (!packing) throw std::runtime_error(packing.error());
  session.packing = *packing;
  session.username = user_name();
  auto made = protocol::Session::make(std::move(session));
  if (!made) throw std::runtime_error(made.error());
  return std::move(*made);
}

HubOptions hub_options(const Options& options, const protocol::EngineConnection& engine,
                       protocol::Session& session) {
  HubOptions hub;
  hub.heart = {options.ping_period, options.max_heartbeat_misses};
  hub.registration_timeout = std::max(std::chrono::milliseconds(30'000), 10 * options.ping_period);
  if (options.registration_timeout.count() > 0) {
    hub.registration_timeout = options.registration_timeout;
  }
  hub.linger = options.linger;
  hub.engine_endpoints = protocol::endpoints(engine);
  if (session.signs()) {
    hub.make_route = [&session](const std::string& uuid) {
      return protocol::make_route(session, uuid);
    };
  }
  hub.make_header = [&session](const std::string& type) {
    return session.make_header(type, std::chrono::system_clock::now());
  };
  return hub;
}

TaskSchedulerOptions task_options(const Options& options) {
  TaskSchedulerOptions task;
  const bool pure = options.scheme == "pure";  // each engine in its turn, however many it has
  task.hwm = pure ? 0 : options.hwm;
  task.scheme = pure ? Scheme::lru : *scheme_from_name(options.scheme);
  task.random = [engine = std::mt19937_64(std::random_device()())]() mutable {
    return std::uniform_real_distribution<double>()(engine);
  };
  return task;
}

std::unique_ptr<Store> make_store(const Options& options, spdlog::logger& log,
                                  protocol::Packing packing) {
  const auto say = [&log](const std::string& text) { log.info(text); };
  if (options.store == "sqlite") {
    return std::make_unique<SqliteStore>(options.sqlite.file, options.sqlite.table, packing,
                                         [&log](const std::string& text) { log.error(text); });
  }
  if (options.store == "none") return std::make_unique<NoStore>();
  MemoryStoreOptions memory = options.memory;
  memory.log = say;
  return std::make_unique<MemoryStore>(std::move(memory));
}

void make_folder(const std::filesystem::path& folder, bool is_private) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw std::runtime_error("can't create " + folder.string() + ": " + error.message());
  if (is_private) {
    std::filesystem::permissions(folder, std::filesystem::perms::owner_all, error);
  }
}

// Only who is started again with the same key has to know what came by before.
std::filesystem::path guard_file(const Options& options, const protocol::Session& session) {
  if (!options.reuse || !session.signs()) return {};
  const auto folder = options.connection_file("client").parent_path();
  make_folder(folder, true);
  return folder / ("ddipp-guard" + options.cluster_id + ".bin");
}

}  // namespace

Controller::Controller(const Options& options, spdlog::logger& log)
    : options_(options),
      log_(log),
      plan_(plan_connections(options)),
      session_(make_session(plan_)),
      guards_(guard_file(options, session_), session_),
      complaints_(log),
      endpoints_(context_, plan_, {options.max_message, options.output_queue}),
      client_watch_(context_, endpoints_.query),
      store_(make_store(options, log, session_.packing())),
      hub_(hub_options(options, plan_.engine, session_), ledger_, *store_, net::Clock::now()),
      services_{session_,    guards_, hub_.registry(),
                complaints_, log,     static_cast<std::size_t>(options.queue_limit)},
      mux_({"the direct channel", protocol::RelayChannel::mux, GuardOf::mux_requests,
            GuardOf::mux_replies},
           endpoints_.mux, services_, ledger_),
      control_({"the control channel", protocol::RelayChannel::control, GuardOf::control_requests,
                GuardOf::control_replies},
               endpoints_.control, services_, control_ledger_),
      tasks_(endpoints_.task, services_, ledger_, task_options(options)),
      broadcasts_(endpoints_.broadcast, services_, ledger_),
      recorder_(services_, ledger_),
      dask_(reactor_, [this](const Dask& request, Json content) {
        send_reply(endpoints_.query, {request.identity},
                   request.start ? "become_dask_reply" : "stop_distributed_reply",
                   std::move(content), request.parent_header);
      }) {
  if (options.metrics_port >= 0) {
    const auto& interface = plan_.client.common.interface;
    metrics_ = std::make_unique<Metrics>(
        interface.starts_with("tcp://") ? interface.substr(6) : "127.0.0.1", options.metrics_port);
    log_.info("metrics on port {}", metrics_->port());
  }
  session_.remember_own(guards_[GuardOf::own]);
  ledger_.on_finished([this](const Record& record) {
    if (metrics_) metrics_->finished(record);
    hub_.on_finished(record, net::Clock::now());
  });
  control_.on_answered(
      [this](const std::string& engine, const std::string& type, net::Clock::time_point) {
        if (type != protocol::ShutdownReply::type) return;
        hub_.on_shutdown_accepted(engine);
        run_actions();
      });
  write_connection_files();
  connect_sockets();
  if (options.restore) restore();
}

Controller::~Controller() {
  dask_.stop();
  if (options_.reuse) return;
  for (const char* kind : {"client", "engine"}) {
    std::error_code ignored;
    std::filesystem::remove(options_.connection_file(kind), ignored);
  }
}

void Controller::write_connection_files() {
  make_folder(options_.connection_file("client").parent_path(), true);
  make_folder(options_.engines_file().parent_path(), false);
  if (!plan_.note.empty()) log_.warn(plan_.note);
  if (!plan_.reused) {
    const auto engine_written = protocol::write_json_file(options_.connection_file("engine"),
                                                          protocol::to_json(plan_.engine));
    if (!engine_written) throw std::runtime_error(engine_written.error());
    const auto client_written = protocol::write_json_file(options_.connection_file("client"),
                                                          protocol::to_json(plan_.client));
    if (!client_written) throw std::runtime_error(client_written.error());
  }
  log_.info("connection files: {}, {}", options_.connection_file("client").string(),
            options_.connection_file("engine").string());
  log_.info("listening on {} for clients and {} for engines{}", plan_.client.common.interface,
            plan_.engine.common.interface,
            plan_.curve_secret_key.empty() ? "" : ", encrypted with CURVE");
  if (!session_.signs() && plan_.curve_secret_key.empty()) {
    log_.warn("messages are not signed: whoever reaches these ports runs code on the engines");
  }
  if (std::string_view(store_->name()) != "none") log_.info("results: {}", store_->name());
}

void Controller::listen(zmq::socket_t& socket, const char* channel, const char* from,
                        Handler unsafe) {
  auto handler = careful(channel, std::move(unsafe));
  if (!metrics_) {
    reactor_.add(socket, [handler = std::move(handler)](net::Multipart& message) {
      handler(message, net::Clock::now());
    });
    return;
  }
  reactor_.add(socket, [handler = std::move(handler), traffic = metrics_->traffic(channel, from)](
                           net::Multipart& message) mutable {
    traffic.count(message);
    handler(message, net::Clock::now());
  });
}

Controller::Handler Controller::careful(const char* channel, Handler handler) {
  return [this, channel, handler = std::move(handler)](net::Multipart& message,
                                                       net::Clock::time_point now) {
    try {
      handler(message, now);
    } catch (const zmq::error_t&) {
      throw;  // a socket that can't be used any more
    } catch (const std::exception& error) {
      log_.error("a message on {} could not be handled: {}", channel, error.what());
    }
  };
}

void Controller::connect_sockets() {
  using Time = net::Clock::time_point;
  const auto relay = [this](auto& channel, Channel& sockets, const char* name) {
    listen(sockets.front, name, "clients",
           [&channel](net::Multipart& message, Time now) { channel.on_request(message, now); });
    listen(sockets.back, name, "engines",
           [&channel](net::Multipart& message, Time now) { channel.on_reply(message, now); });
  };
  listen(endpoints_.query, "hub", "peers",
         [this](net::Multipart& message, Time now) { on_query(message, now); });
  listen(client_watch_.events(), "hub", "connections", [this](net::Multipart& message, Time now) {
    client_watch_.on_event(message);
    on_clients_changed(now);
  });
  listen(endpoints_.ping, "heartbeat", "subscriptions",
         [this](net::Multipart& message, Time now) { on_ping_subscription(message, now); });
  listen(endpoints_.pong, "heartbeat", "engines",
         [this](net::Multipart& message, Time now) { on_pong(message, now); });
  listen(endpoints_.notification, "notification", "subscriptions",
         [this](net::Multipart& message, Time now) { on_client_subscription(message, now); });
  listen(endpoints_.iopub_back, "iopub", "engines",
         [this](net::Multipart& message, Time now) { on_iopub(message, now); });
  listen(endpoints_.iopub_front, "iopub", "subscriptions",
         [this](net::Multipart& message, Time now) { on_output_subscription(message, now); });
  relay(control_, endpoints_.control, "control");
  relay(mux_, endpoints_.mux, "mux");
  relay(tasks_, endpoints_.task, "task");
  relay(broadcasts_, endpoints_.broadcast, "broadcast");
  reactor_.on_tick([this] { return std::optional(next_deadline()); },
                   [this](net::Clock::time_point now) {
                     try {
                       tick(now);
                     } catch (const zmq::error_t&) {
                       throw;
                     } catch (const std::exception& error) {
                       complaints_.add("the clock", error.what(), now);
                     }
                   });
}

void Controller::restore() {
  const auto saved = read_engines_file(options_.engines_file());
  if (saved) {
    auto engines = saved->engines;
    for (Engine& engine : engines) {
      if (saved->ours.contains(engine.uuid) && session_.signs()) {
        engine.route = protocol::make_route(session_, engine.uuid);
      }
    }
    hub_.restore(engines, saved->next_id);
    run_actions();
    mind_handover();
  } else {
    log_.warn("no engines to restore: {}", saved.error());
  }
  const auto unfinished = store_->find({{"completed", Operator::eq, nullptr},
                                        {"queue", Operator::eq, "task"},
                                        {"resubmitted", Operator::eq, nullptr}},
                                       true);
  if (!unfinished || unfinished->empty()) return;
  log_.info("{} unfinished tasks are queued again", unfinished->size());
  for (const auto& task : *unfinished) {
    // Another signature: an engine that has seen the task refuses the very same message.
    if (auto metadata = protocol::unpack(task->request.metadata, task->packing)) {
      (*metadata)["queued_again"] = protocol::iso8601(std::chrono::system_clock::now());
      task->request.metadata = protocol::pack(*metadata, task->packing);
    }
    tasks_.resubmit(task, net::Clock::now());
  }
}

void Controller::run(int signal_fd) {
  reactor_.add(signal_fd, [this, signal_fd] {
    signalfd_siginfo info{};
    if (::read(signal_fd, &info, sizeof info) != sizeof info) return;
    const char* name = ::strsignal(static_cast<int>(info.ssi_signo));
    hub_.on_stop_signal(std::string("signal ") + (name == nullptr ? "?" : name), net::Clock::now());
    run_actions();
  });
  reactor_.run();
}

void Controller::on_query(net::Multipart& message, net::Clock::time_point now) {
  const auto frames = net::views(message);
  const std::string identity(frames.front());
  const auto opened = session_.open(frames, guards_[GuardOf::hub]);
  if (opened) {
    const std::string& type = opened->header.msg_type;
    if (type == protocol::ConnectionRequest::type) output_gate_.on_client_connects(now);
    if (type != protocol::RegistrationRequest::type &&
        type != protocol::UnregistrationRequest::type) {
      client_watch_.on_request(message);
      on_clients_changed(now);
    }
    try {
      hub_.on_query(identity, *opened, now);
    } catch (const std::exception& error) {  // whoever asked is not to wait for ever
      log_.error("request '{}' could not be handled: {}", opened->header.msg_type, error.what());
      send_reply(endpoints_.query, {identity}, "hub_error",
                 protocol::error_content("RuntimeError", error.what()), opened->header);
    }
    mind_handover();
  } else {
    complaints_.add("the hub's socket", describe(opened.error()), now);
    // Answers that nobody reads take memory.
    if (answers_to_strangers_.take(now)) hub_.on_bad_query(identity, opened.error());
  }
  run_actions();
}

void Controller::on_ping_subscription(const net::Multipart& message, net::Clock::time_point now) {
  const auto frame = net::view(message.front());
  if (frame.empty()) return;
  const bool subscribed = frame.front() == '\x01';
  if (const auto presence = parse_presence_topic(frame.substr(1))) {
    const auto engine = sender(presence->uuid);
    if (engine) hub_.on_presence(*engine, subscribed, presence->local, now);
  } else if (subscribed) {
    hub_.on_heart_subscribed(now);
  }
  run_actions();
}

void Controller::on_pong(const net::Multipart& message, net::Clock::time_point now) {
  if (const auto engine = sender(net::view(message.front()))) {
    hub_.on_pong(*engine, net::view(message.back()), now);
  }
  run_actions();
}

std::optional<std::string> Controller::sender(std::string_view identity) const {
  if (protocol::is_route(identity)) {
    if (!protocol::is_genuine(session_, identity)) return std::nullopt;
    return std::string(protocol::uuid_of(identity));
  }
  std::string uuid(identity);
  if (hub_.has_route(uuid)) return std::nullopt;
  return uuid;
}

// An engine that comes back takes its identity over, also when its last connection seems to be
// alive. A route is safe from others; a stock engine's uuid is not, so while there is one of those
// the older connection wins, as with ipcontroller.
void Controller::mind_handover() {
  const bool wanted = !hub_.registry().has_stock_engine();
  if (wanted == handover_) return;
  handover_ = wanted;
  endpoints_.set_handover(wanted);
  log_.info(wanted ? "no stock engine is left: engines may take their connections over again"
                   : "a stock engine: engines can't take their connections over");
}

void Controller::on_client_subscription(const net::Multipart& message, net::Clock::time_point now) {
  const auto frame = net::view(message.front());
  if (frame.empty()) return;
  const bool subscribed = frame.front() == '\x01';  // an end is seen of the last one only
  subscribed_ = subscribed;
  on_clients_changed(now);
  if (subscribed) hub_.on_client_subscribed(now);
  run_actions();
}

void Controller::on_clients_changed(net::Clock::time_point now) {
  const bool proven = client_watch_.any();
  const std::pair clients(proven || subscribed_, proven);
  if (std::exchange(clients_, clients) == clients) return;
  hub_.on_clients(clients.first, now, clients.second);
  run_actions();
}

void Controller::trim_memory(net::Clock::time_point now) {
  if (now < next_trim_) return;
  next_trim_ = now + kTrimPeriod;
  if (::mallinfo2().fordblks > kTrimAbove) ::malloc_trim(0);
}

void Controller::on_iopub(net::Multipart& message, net::Clock::time_point now) {
  const auto seen = recorder_.look_at(message, now);
  if (!seen.genuine) return;
  if (seen.ended) hub_.on_engine_shutdown(*seen.ended, now);
  held_output_.push_back(std::move(message));
  pass_output_on(now);
  run_actions();
}

void Controller::on_output_subscription(const net::Multipart& message, net::Clock::time_point now) {
  const auto frame = net::view(message.front());
  if (!frame.empty() && frame.front() == '\x01') output_gate_.on_subscribed();
  pass_output_on(now);
}

void Controller::pass_output_on(net::Clock::time_point now) {
  if (output_gate_.open(now)) release_output();
}

void Controller::release_output() {
  for (net::Multipart& message : held_output_) net::send(endpoints_.iopub_front, message);
  held_output_.clear();
}

net::Clock::time_point Controller::next_deadline() const {
  auto earliest = hub_.next_deadline();
  const auto consider = [&earliest](const std::optional<net::Clock::time_point>& deadline) {
    if (deadline) earliest = std::min(earliest, *deadline);
  };
  consider(mux_.next_deadline());
  consider(control_.next_deadline());
  consider(tasks_.next_deadline());
  consider(broadcasts_.next_deadline());
  consider(output_gate_.next_look());
  consider(save_engines_at_);
  consider(store_->next_flush());
  if (metrics_) consider(next_metrics_);
  return earliest;
}

void Controller::tick(net::Clock::time_point now) {
  hub_.tick(now);
  run_actions();
  pass_output_on(now);
  mux_.tick(now);
  control_.tick(now);
  tasks_.tick(now);
  broadcasts_.tick(now);
  store_->flush_if_due(now);
  trim_memory(now);
  if (save_engines_at_ && *save_engines_at_ <= now) save_engines();
  if (metrics_ && next_metrics_ <= now) {
    metrics_->set_state(hub_.registry(), ledger_);
    next_metrics_ = now + kMetricsPeriod;
  }
}

void Controller::run_actions() {
  for (auto actions = hub_.take_actions(); !actions.empty(); actions = hub_.take_actions()) {
    for (const Action& action : actions) {
      std::visit([this](const auto& what) { perform(what); }, action);
    }
  }
}

void Controller::perform(const Reply& action) {
  send_reply(endpoints_.query, {action.identity}, action.type, action.content, action.parent_header,
             action.buffers);
}

void Controller::perform(const Notify& action) {
  send_reply(endpoints_.notification, {}, action.type, action.content, action.parent_header);
}

void Controller::perform(const Ping& action) {
  net::Multipart message;
  message.push_back(net::make_frame(action.payload));
  net::send(endpoints_.ping, message);
}

void Controller::perform(const AnswerAll& action) {
  for (const auto& record : control_ledger_.outstanding()) {
    control_.fail(*record, "EngineError", action.why);
  }
  for (const auto& record : ledger_.outstanding()) {
    switch (record->queue) {
      case Queue::mux:
        mux_.fail(*record, "EngineError", action.why);
        break;
      case Queue::task:
        tasks_.fail(*record, "EngineError", action.why);
        break;
      case Queue::broadcast:  // the parts make up the whole
        if (!record->engine.empty()) broadcasts_.fail(*record, "EngineError", action.why);
        break;
    }
  }
}

void Controller::perform(const Stop&) {
  release_output();
  reactor_.stop();
}

void Controller::perform(const EngineJoined& action) {
  tasks_.add_engine(action.engine.uuid);
  engines_changed();
}

void Controller::perform(const EngineRetired& action) { tasks_.retire_engine(action.uuid); }

void Controller::perform(const EngineLost& action) {
  mux_.remove_engine(action.engine, action.why);
  control_.remove_engine(action.engine, action.why);
  tasks_.remove_engine(action.engine, action.why);
  broadcasts_.remove_engine(action.engine, action.why);
  ledger_.forget_engine(action.engine.uuid);
  control_ledger_.forget_engine(action.engine.uuid);
  engines_changed();
}

void Controller::perform(const ShutDownEngines&) {
  for (const auto& [id, engine] : hub_.registry().engines()) {
    send_control(engine.uuid, protocol::ShutdownRequest::type, Json{{"restart", false}});
  }
}

void Controller::perform(const EndCells& action) {
  for (const auto& engine : action.engines) {
    // In this order: one that is taken out of a collective of NCCL may go on, but for the signal.
    send_control(engine, protocol::SignalRequest::type, Json{{"sig", SIGINT}});
    send_control(engine, protocol::extensions::CutRequest::type,
                 protocol::extensions::CutRequest{});
  }
}

void Controller::perform(const Resubmit& action) {
  tasks_.resubmit(action.task, net::Clock::now());
}

void Controller::perform(const Dask& action) {
  if (action.start) return dask_.start(action);
  dask_.stop();
  send_reply(endpoints_.query, {action.identity}, "stop_distributed_reply", protocol::OkReply{},
             action.parent_header);
}

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

void Controller::engines_changed() {
  if (!save_engines_at_) save_engines_at_ = net::Clock::now() + kSaveDelay;
}

void Controller::save_engines() {
  save_engines_at_.reset();
  const auto saved = write_engines_file(options_.engines_file(), hub_.registry());
  if (!saved) log_.warn(saved.error());
}

net::Multipart Controller::make_message(std::vector<std::string> identities,
                                        const std::string& type, Json content, Json parent,
                                        const std::vector<protocol::Blob>& buffers) {
  protocol::Message message;
  message.identities = std::move(identities);
  message.header = session_.make_header(type, std::chrono::system_clock::now());
  message.content = std::move(content);
  message.parent_header = std::move(parent);
  net::Multipart frames = net::make_multipart(session_.seal(message));
  for (const auto& buffer : buffers) frames.push_back(net::make_frame(buffer));
  return frames;
}

void Controller::send_reply(zmq::socket_t& socket, std::vector<std::string> identities,
                            const std::string& type, Json content, Json parent,
                            const std::vector<protocol::Blob>& buffers) {
  net::Multipart frames =
      make_message(std::move(identities), type, std::move(content), std::move(parent), buffers);
  net::send(socket, frames);
}

void Controller::send_control(const std::string& engine, const std::string& type, Json content) {
  control_.send(engine, make_message({engine, "hub"}, type, std::move(content), Json::object()),
                net::Clock::now());
}

}  // namespace ddipp::controller
