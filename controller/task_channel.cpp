#include "controller/task_channel.hpp"

#include <algorithm>
#include <set>

#include "controller/routing.hpp"
#include "protocol/content.hpp"

namespace ddipp::controller {

using protocol::Json;

namespace {

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

void TaskChannel::on_submission(net::Multipart& message, net::Clock::time_point now) {
  const auto frames = net::views(message);
  const auto envelope = session_.verify(frames);
  if (!envelope || envelope->delimiter != 1) {
    return log_.warn("ignored a task: {}",
                     envelope ? "it has no sender" : protocol::describe(envelope.error()));
  }
  const auto header = protocol::unpack(envelope->header, session_.packing());
  const auto metadata = protocol::unpack(envelope->metadata, session_.packing());
  const auto parsed = header ? protocol::parse_header(*header) : Failure{header.error()};
  if (!parsed || !metadata) return log_.warn("ignored a task: its header can't be read");

  const std::string id = parsed->msg_id;
  auto request = read_request(id, *metadata);
  stored_[id] = Stored{std::move(message), protocol::reply_type(parsed->msg_type), *header};
  if (!request) {
    perform(Fail{id, "InvalidDependency", request.error()});
  } else {
    scheduler_.submit(std::move(*request), now);
  }
  run_actions();
}

// [engine, client, delimiter, ...]
void TaskChannel::on_result(net::Multipart& message) {
  const auto frames = net::views(message);
  const auto envelope = session_.verify(frames);
  if (!envelope || envelope->delimiter < 2) {
    return log_.warn("ignored the result of a task: {}",
                     envelope ? "it has no receiver" : protocol::describe(envelope.error()));
  }
  const auto parent = protocol::unpack(envelope->parent_header, session_.packing());
  const auto metadata = protocol::unpack(envelope->metadata, session_.packing());
  if (!parent || !metadata || !parent->is_object() || !metadata->is_object()) return;
  const std::string id = parent->value("msg_id", "");
  const TaskScheduler::TaskResult result{metadata->value("status", "") == "ok",
                                         metadata->value("dependencies_met", true)};
  if (scheduler_.on_result(std::string(frames[0]), id, result)) {
    stored_.erase(id);
    swap_identities(message);
    net::send(channel_.front, message);
  }
  run_actions();
}

void TaskChannel::add_engine(const std::string& uuid) {
  scheduler_.add_engine(uuid);
  run_actions();
}

void TaskChannel::remove_engine(const std::string& uuid) {
  held_.release(uuid);  // the scheduler knows what was on its way
  scheduler_.remove_engine(uuid);
  run_actions();
}

void TaskChannel::tick(net::Clock::time_point now) {
  scheduler_.tick(now);
  run_actions();
  std::set<std::string> unreachable;
  held_.retry(
      now, [this](net::Multipart& message) { return net::send(channel_.back, message); },
      [&](const std::string& engine, net::Multipart&) { unreachable.insert(engine); });
  for (const auto& engine : unreachable) {
    log_.warn("tasks can't be sent to engine {}", engine);
    remove_engine(engine);
  }
}

std::optional<net::Clock::time_point> TaskChannel::next_deadline() const {
  const auto timeout = scheduler_.next_deadline();
  const auto retry = held_.next_deadline();
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
  net::Multipart copy;
  copy.push_back(net::make_frame(action.engine));
  for (auto& frame : found->second.frames) {
    copy.emplace_back().copy(frame);  // shares the memory
  }
  if (held_.holds_for(action.engine) || net::send(channel_.back, copy) != net::SendStatus::sent) {
    held_.hold(action.engine, std::move(copy), net::Clock::now());
  }
}

void TaskChannel::perform(const Fail& action) {
  const auto found = stored_.find(action.task);
  if (found == stored_.end()) return;
  protocol::Message reply;
  reply.identities = {std::string(net::view(found->second.frames.front()))};
  reply.header = session_.make_header(found->second.reply_type, std::chrono::system_clock::now());
  reply.parent_header = found->second.header;
  reply.content = protocol::error_content(action.error, action.why);
  net::Multipart frames = net::make_multipart(session_.seal(reply));
  net::send(channel_.front, frames);
  stored_.erase(found);
}

}  // namespace ddipp::controller
