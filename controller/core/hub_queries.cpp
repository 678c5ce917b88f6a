#include "controller/core/hub_queries.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "protocol/content.hpp"
#include "protocol/python_text.hpp"

namespace ddipp::controller {

using protocol::error_content;
using protocol::Json;
using protocol::Message;

namespace {

// For a person; bytes that are no UTF-8 don't matter.
std::string shown(const Json& value) { return protocol::pack(value, protocol::Packing::json); }

Answer failed(std::string type, const std::string& name, const std::string& why) {
  return {std::move(type), error_content(name, why), {}, {}};
}

Answer hub_error(const std::string& name, const std::string& why) {
  return failed("hub_error", name, why);
}

std::string python_text(const Json& value) {
  return value.is_string() ? protocol::python_repr(value.get_ref<const std::string&>())
                           : shown(value);
}

Query with_id(const std::string& msg_id) { return {{"msg_id", Operator::eq, msg_id}}; }

// What get_result() shows of a record.
Json result_of(const Record& record) {
  Json io = Json::object();
  for (const char* key : {"execute_input", "execute_result", "error", "stdout", "stderr"}) {
    io[key] = field(record, key);
  }
  Json content{{"io", std::move(io)}};
  for (const char* key :
       {"header", "metadata", "result_metadata", "result_header", "result_content", "received"}) {
    content[key] = field(record, key);
  }
  return content;
}

// Keys of a reply's records; buffers travel as frames.
struct Keys {
  std::vector<std::string> json;
  bool all = true;
  bool buffers = false;
  bool result_buffers = false;
  std::string fault;
};

Keys wanted_keys(const Json& wanted) {
  Keys keys;
  keys.all = !wanted.is_array() || wanted.empty();
  if (keys.all) {
    for (const auto key : kRecordKeys) {
      if (!key.ends_with("buffers")) keys.json.emplace_back(key);
    }
    return keys;
  }
  keys.json.emplace_back("msg_id");
  for (const Json& item : wanted) {
    const std::string key = item.is_string() ? item.get<std::string>() : shown(item);
    if (!is_record_key(key)) {
      keys.fault = "records have no key '" + key + "'";
    } else if (key == "buffers") {
      keys.buffers = true;
    } else if (key == "result_buffers") {
      keys.result_buffers = true;
    } else if (key != "msg_id") {
      keys.json.push_back(key);
    }
  }
  return keys;
}

void append(std::vector<protocol::Blob>& to, const std::vector<protocol::Blob>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

std::optional<Answer> HubQueries::answer(const Message& request) {
  const std::string& type = request.header.msg_type;
  if (type == protocol::QueueRequest::type) return queue_status(request);
  if (type == protocol::LoadRequest::type) return load(request);
  if (type == protocol::ResultRequest::type) return results(request);
  if (type == protocol::HistoryRequest::type) return history();
  if (type == protocol::DbRequest::type) return records(request);
  if (type == protocol::PurgeRequest::type) return purge(request);
  if (type == protocol::ResubmitRequest::type) return resubmit(request);
  return std::nullopt;
}

// Null for all; an id, a uuid, or a list of them.
HubQueries::Targets HubQueries::targets(const Json& wanted) const {
  Targets found;
  if (wanted.is_null()) {
    for (const auto& [id, engine] : registry_.engines()) found.engines.push_back(engine);
    return found;
  }
  const Json list = wanted.is_array() ? wanted : Json::array({wanted});
  std::string bad;
  for (const Json& target : list) {
    if (target.is_number_integer()) {
      const auto number = protocol::integer_in(target);
      const auto engine = number ? registry_.engines().find(*number) : registry_.engines().end();
      if (engine != registry_.engines().end()) {
        found.engines.push_back(engine->second);
        continue;
      }
    } else if (target.is_string()) {
      if (const auto engine = registry_.find(target.get<std::string>())) {
        found.engines.push_back(*engine);
        continue;
      }
    }
    bad += (bad.empty() ? "" : ", ") + python_text(target);
  }
  if (!bad.empty()) {
    found.fault = "No Such Engine: [" + bad + "]";
    return found;
  }
  if (found.engines.empty()) found.fault = "No Engines Registered";
  return found;
}

Answer HubQueries::queue_status(const Message& request) const {
  const auto content = protocol::parse_content<protocol::QueueRequest>(request.content);
  if (!content) return hub_error("KeyError", content.error());
  const Targets wanted = targets(content->targets);
  if (!wanted.fault.empty()) return hub_error("IndexError", wanted.fault);
  Json reply{{"status", "ok"}};
  for (const Engine& engine : wanted.engines) {
    const auto view = ledger_.view(engine.uuid);
    reply[std::to_string(engine.id)] =
        content->verbose
            ? Json{{"queue", view.queue}, {"tasks", view.tasks}, {"completed", view.completed}}
            : Json{{"queue", view.queue.size()},
                   {"tasks", view.tasks.size()},
                   {"completed", view.completed_count}};
  }
  const auto unassigned = ledger_.unassigned();
  reply["unassigned"] = content->verbose ? Json(unassigned) : Json(unassigned.size());
  return {"queue_reply", std::move(reply), {}, {}};
}

Answer HubQueries::load(const Message& request) const {
  const auto content = protocol::parse_content<protocol::LoadRequest>(request.content);
  if (!content) return hub_error("KeyError", content.error());
  const Targets wanted = targets(content->targets);
  if (!wanted.fault.empty()) return hub_error("IndexError", wanted.fault);
  Json reply{{"status", "ok"}};
  for (const Engine& engine : wanted.engines) {
    reply[std::to_string(engine.id)] = ledger_.load(engine.uuid);
  }
  return {"load_reply", std::move(reply), {}, {}};
}

Answer HubQueries::results(const Message& request) {
  const std::string type = "result_reply";
  const auto content = protocol::parse_content<protocol::ResultRequest>(request.content);
  if (!content) return failed(type, "KeyError", content.error());
  // The client takes the buffers in this order.
  const std::set<std::string> ids(content->msg_ids.begin(), content->msg_ids.end());
  Answer answer{type, Json{{"status", "ok"}}, {}, {}};
  Json pending = Json::array();
  Json completed = Json::array();
  for (const auto& id : ids) {
    if (ledger_.pending(id)) {
      pending.push_back(id);
      continue;
    }
    const auto found = store_.find(with_id(id), !content->status_only);
    if (!found) return failed(type, found.error().name, found.error().why);
    if (found->empty()) return failed(type, "KeyError", "No such message: " + id);
    const Record& record = *found->front();
    if (!record.finished()) {
      pending.push_back(id);
      continue;
    }
    completed.push_back(id);
    if (content->status_only) continue;
    answer.content[id] = result_of(record);
    append(answer.buffers, record.result->buffers);
  }
  answer.content["pending"] = std::move(pending);
  answer.content["completed"] = std::move(completed);
  return answer;
}

Answer HubQueries::history() {
  const std::string type = "history_reply";
  auto ids = store_.history();
  if (!ids) return failed(type, ids.error().name, ids.error().why);
  return {type, protocol::HistoryReply{"ok", std::move(*ids)}, {}, {}};
}

Answer HubQueries::records(const Message& request) {
  const std::string type = "db_reply";
  const auto content = protocol::parse_content<protocol::DbRequest>(request.content);
  if (!content) return failed(type, "KeyError", content.error());
  const auto query = parse_query(content->query);
  if (!query) return failed(type, "KeyError", query.error());
  const Keys keys = wanted_keys(content->keys);
  if (!keys.fault.empty()) return failed(type, "KeyError", keys.fault);
  const auto found = store_.find(*query, keys.buffers || keys.result_buffers);
  if (!found) return failed(type, found.error().name, found.error().why);

  Answer answer{type, {}, {}, {}};
  protocol::DbReply reply;
  if (keys.buffers) reply.buffer_lens = Json::array();
  if (keys.result_buffers) reply.result_buffer_lens = Json::array();
  for (const auto& record : *found) {
    Json row = Json::object();
    for (const auto& key : keys.json) row[key] = field(*record, key);
    reply.records.push_back(std::move(row));
    if (keys.buffers) {
      reply.buffer_lens.push_back(record->request.buffers.size());
      append(answer.buffers, record->request.buffers);
    }
    if (keys.result_buffers) {
      const bool finished = record->finished();
      reply.result_buffer_lens.push_back(finished ? record->result->buffers.size() : 0);
      if (finished) append(answer.buffers, record->result->buffers);
    }
  }
  answer.content = reply;
  return answer;
}

Answer HubQueries::purge(const Message& request) {
  const std::string type = "purge_reply";
  const auto content = protocol::parse_content<protocol::PurgeRequest>(request.content);
  if (!content) return failed(type, "KeyError", content.error());
  const Condition finished{"completed", Operator::ne, nullptr};
  std::vector<Query> drops;
  if (content->msg_ids == "all") {
    drops.push_back({finished});
  } else {
    const Json ids = content->msg_ids.is_array() ? content->msg_ids : Json::array();
    for (const Json& id : ids) {
      if (id.is_string() && ledger_.pending(id.get<std::string>())) {
        return failed(type, "IndexError", "msg pending: " + python_text(id));
      }
    }
    if (!ids.empty()) drops.push_back({{"msg_id", Operator::in, ids}});
    const Json engine_ids = content->engine_ids.is_array() ? content->engine_ids : Json::array();
    for (const Json& id : engine_ids) {
      const Targets engine = targets(id);
      if (!engine.fault.empty()) {
        return failed(type, "IndexError", "No such engine: " + python_text(id));
      }
      drops.push_back({{"engine_uuid", Operator::eq, engine.engines.front().uuid}, finished});
    }
  }
  for (const auto& drop : drops) {
    const auto dropped = store_.drop(drop);
    if (!dropped) return failed(type, dropped.error().name, dropped.error().why);
  }
  return {type, protocol::OkReply{}, {}, {}};
}

Answer HubQueries::resubmit(const Message& request) {
  const std::string type = "resubmit_reply";
  const auto content = protocol::parse_content<protocol::ResubmitRequest>(request.content);
  if (!content) return failed(type, "KeyError", content.error());
  std::vector<RecordPtr> originals;
  std::string missing;
  for (const auto& id : content->msg_ids) {
    const auto found = store_.find(with_id(id), true);
    if (!found) return failed(type, found.error().name, found.error().why);
    if (found->empty()) {
      missing += (missing.empty() ? "" : ", ") + protocol::python_repr(id);
    } else {
      originals.push_back(found->front());
    }
  }
  if (!missing.empty()) return failed(type, "KeyError", "No such msg(s): [" + missing + "]");

  Answer answer{type, {}, {}, {}};
  protocol::ResubmitReply reply;
  for (const auto& original : originals) {
    const RecordPtr copy = again(*original);
    if (!copy) return failed(type, "ValueError", "the header of a record can't be read");
    reply.resubmitted[original->msg_id] = copy->msg_id;
    original->resubmitted = copy->msg_id;
    store_.changed(original);
    answer.resubmitted.push_back(copy);
  }
  answer.content = reply;
  return answer;
}

// The same request under a new id, as a task that nobody but the store waits for.
RecordPtr HubQueries::again(const Record& record) {
  auto header = protocol::unpack(record.request.header, record.packing);
  if (!header || !header->is_object()) return nullptr;
  const auto fresh = make_header_(protocol::text_in(*header, "msg_type"));
  (*header)["msg_id"] = fresh.msg_id;
  (*header)["date"] = fresh.date;
  auto copy = std::make_shared<Record>();
  copy->msg_id = fresh.msg_id;
  copy->msg_type = fresh.msg_type;
  copy->queue = Queue::task;
  copy->packing = record.packing;
  copy->request = record.request;
  copy->request.header = protocol::pack(*header, record.packing);
  return copy;
}

}  // namespace ddipp::controller
