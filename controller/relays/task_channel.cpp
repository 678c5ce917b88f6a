#include "controller/relays/task_channel.hpp"

#include <algorithm>
#include <set>

#include "controller/core/routing.hpp"
#include "controller/relays/wire_records.hpp"
#include "protocol/fields.hpp"

namespace ddipp::controller {

using protocol::Json;

namespace {

constexpr const char* kName = "the task channel";

Result<TaskRequest> read_request(const std::string& id, const Json& metadata) {
  TaskRequest request;
  request.id = id;
  try {
    const Json targets = metadata.value("targets", Json());
    if (targets.is_array()) request.targets = targets.get<std::set<std::string>>();
    const Json timeout = metadata.value("timeout", Json());
    if (timeout.is_number() && timeout.get<double>() > 0) {
      request.timeout = std::chrono::milliseconds(
          static_cast<std::int64_t>(std::min(timeout.get<double>(), 1e9) * 1000));
    }
    const Json retries = metadata.value("retries", Json());
    if (retries.is_number()) request.retries = retries.get<int>();
    auto after = parse_dependency(metadata.value("after", Json()));
    if (!after) return Failure{after.error()};
    auto follow = parse_dependency(metadata.value("follow", Json()));
    if (!follow) return Failure{follow.error()};
    request.after = std::move(*after);
    request.follow = std::move(*follow);
  } catch (const Json::exception& error) {
    return Failure{std::string("the metadata can't be read: ") + error.what()};
  }
  return request;
}

}  // namespace

// [client, delimiter, ...]
void TaskChannel::on_request(net::Multipart& message, net::Clock::time_point now) {
  const auto frames = net::views(message);
  const auto envelope = services_.session.verify(frames, services_.guards[GuardOf::task_requests]);
  if (!envelope || envelope->delimiter != 1) {
    const auto why = envelope ? "it has no sender" : describe(envelope.error());
    return services_.complaints.add(kName, why, now);
  }
  const auto record = make_record(*envelope, message, services_.session.packing(),
                                  std::string(frames[0]), "", Queue::task);
  if (!record) return services_.complaints.add(kName, "its header can't be read", now);
  const auto why = services_.refusal(ledger_, *record);
  if (!why.empty()) return fail(*record, "MemoryError", why);
  submit(record, std::move(message), now);
}

void TaskChannel::resubmit(const RecordPtr& record, net::Clock::time_point now) {
  record->engine.clear();
  record->queue = Queue::task;
  // A router drops what is addressed to nobody.
  const std::string client = record->client.empty() ? "resubmitted" : record->client;
  submit(record, request_frames(*record, {client}, services_.session), now);
}

void TaskChannel::submit(const RecordPtr& record, net::Multipart frames,
                         net::Clock::time_point now) {
  if (ledger_.pending(record->msg_id)) {
    return services_.complaints.add(kName, "a task with its msg_id is on its way", now);
  }
  stored_[record->msg_id] = {std::move(frames), std::nullopt};
  ledger_.submit(record);
  const auto metadata = protocol::unpack(record->request.metadata, record->packing);
  auto request = metadata ? read_request(record->msg_id, *metadata) : Failure{metadata.error()};
  if (!request) {
    perform(Fail{record->msg_id, "InvalidDependency", request.error()});
  } else {
    scheduler_.submit(std::move(*request), now);
  }
  run_actions();
}

// [engine, client, delimiter, ...]
void TaskChannel::on_reply(net::Multipart& message, net::Clock::time_point now) {
  name_by_uuid(message);
  const auto frames = net::views(message);
  const auto envelope = services_.session.verify(frames, services_.guards[GuardOf::task_replies]);
  if (!envelope || envelope->delimiter < 2) {
    const auto why = envelope ? "it names no receiver" : describe(envelope.error());
    return services_.complaints.add("task results", why, now);
  }
  std::string status;
  std::string dependencies_met;
  protocol::read_texts(envelope->metadata, services_.session.packing(),
                       {{"status", status}, {"dependencies_met", dependencies_met}});
  const std::string id = parent_id(*envelope, services_.session.packing());
  const TaskScheduler::TaskResult result{status == "ok", dependencies_met != "false"};
  if (scheduler_.on_result(std::string(frames[0]), id, result)) {
    stored_.erase(id);
    ledger_.finish(id, parts_of(*envelope, message), std::chrono::system_clock::now());
    swap_identities(message);
    net::send(channel_.front, message);
  } else if (const auto record = ledger_.find(id); record && record->engine == frames[0]) {
    ledger_.assign(id, "");  // to be tried again
  }
  run_actions();
}

void TaskChannel::add_engine(const std::string& uuid) {
  scheduler_.add_engine(uuid);
  run_actions();
}

void TaskChannel::remove_engine(const Engine& engine, const std::string& why) {
  outlet_.forget(engine.uuid);  // the scheduler knows what was on its way
  scheduler_.remove_engine(engine.uuid, std::to_string(engine.id), why);
  run_actions();
}

void TaskChannel::tick(net::Clock::time_point now) {
  scheduler_.tick(now);
  run_actions();
  std::set<std::string> unreachable;
  outlet_.retry(now, [&](const std::string& uuid, net::Multipart&) { unreachable.insert(uuid); });
  for (const auto& uuid : unreachable) {
    const auto engine = services_.registry.find(uuid);
    services_.log.warn("tasks can't be sent to engine {}", uuid);
    remove_engine(engine ? *engine : Engine{-1, uuid}, "it can't be reached");
  }
}

std::optional<net::Clock::time_point> TaskChannel::next_deadline() const {
  const auto timeout = scheduler_.next_deadline();
  const auto retry = outlet_.next_deadline();
  return timeout && retry ? std::min(*timeout, *retry) : timeout ? timeout : retry;
}

void TaskChannel::run_actions() {
  for (auto actions = scheduler_.take_actions(); !actions.empty();
       actions = scheduler_.take_actions()) {
    for (const auto& action : actions) {
      std::visit([this](const auto& what) { perform(what); }, action);
    }
  }
}

void TaskChannel::perform(const Assign& action) {
  const auto found = stored_.find(action.task);
  if (found == stored_.end()) return;
  ledger_.assign(action.task, action.engine);
  net::Multipart copy;
  copy.reserve(found->second.frames.size() + 2);
  copy.push_back(net::make_frame(action.engine));
  for (auto& frame : found->second.frames) {
    copy.emplace_back().copy(frame);  // shares the memory
  }
  outlet_.send(action.engine, std::move(copy), net::Clock::now(), &found->second.buffers_code);
}

void TaskChannel::perform(const Fail& action) {
  if (const auto record = ledger_.find(action.task)) fail(*record, action.error, action.why);
}

void TaskChannel::fail(const Record& record, const std::string& name, const std::string& why) {
  const auto now = std::chrono::system_clock::now();
  auto reply = error_reply(record, name, why, services_.session, now);
  stored_.erase(record.msg_id);
  ledger_.finish(record.msg_id, std::move(reply.parts), now);
  net::send(channel_.front, reply.frames);
}

}  // namespace ddipp::controller
