#include "protocol/content.hpp"

#include <type_traits>

#include "protocol/python_text.hpp"

namespace ddipp::protocol {
namespace {

// An entry that may be absent or null keeps the default of the struct.
template <class T>
void optional_entry(const Json& json, const char* key, T& target) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return;
  if constexpr (std::is_same_v<T, Json>) {
    target = *found;
  } else {
    found->get_to(target);
  }
}

// Clients may give one id where a list is meant.
void msg_ids_entry(const Json& json, std::vector<std::string>& target) {
  const auto found = json.find("msg_ids");
  if (found == json.end() || found->is_null()) return;
  if (found->is_string()) {
    target = {found->get<std::string>()};
  } else {
    found->get_to(target);
  }
}

void require_object(const Json& json) {
  if (!json.is_object()) {
    throw Json::type_error::create(302, "the content is not an object", &json);
  }
}

}  // namespace

#define DDIPP_EMPTY(Type)                                          \
  void to_json(Json& json, const Type&) { json = Json::object(); } \
  void from_json(const Json& json, Type&) { require_object(json); }
DDIPP_EMPTY(ShutdownNotification)
DDIPP_EMPTY(ConnectionRequest)
DDIPP_EMPTY(HistoryRequest)
DDIPP_EMPTY(ApplyRequest)
DDIPP_EMPTY(ClearRequest)
DDIPP_EMPTY(InterruptRequest)
#undef DDIPP_EMPTY

void to_json(Json& json, const RegistrationRequest& content) {
  json = Json{{"uuid", content.uuid}};
  if (content.id) json["id"] = *content.id;
  if (content.relay != 0) json["ddipp_relay"] = content.relay;
}
void from_json(const Json& json, RegistrationRequest& content) {
  json.at("uuid").get_to(content.uuid);
  optional_entry(json, "ddipp_relay", content.relay);
  const auto id = json.find("id");
  if (id != json.end() && !id->is_null()) content.id = id->get<int>();
}

void to_json(Json& json, const RegistrationReply& content) {
  json = Json{{"status", content.status},
              {"id", content.id},
              {"hb_period", content.hb_period},
              {"connection_info", content.connection_info}};
  if (content.relay != 0) json["ddipp_relay"] = content.relay;
}
void from_json(const Json& json, RegistrationReply& content) {
  json.at("status").get_to(content.status);
  json.at("id").get_to(content.id);
  json.at("hb_period").get_to(content.hb_period);
  optional_entry(json, "connection_info", content.connection_info);
  optional_entry(json, "ddipp_relay", content.relay);
}

void to_json(Json& json, const UnregistrationRequest& content) {
  json = Json{{"id", content.id}};
  if (content.uuid) json["uuid"] = *content.uuid;
  if (content.reason) json["reason"] = *content.reason;
  if (content.last_output) json["last_output"] = *content.last_output;
}
void from_json(const Json& json, UnregistrationRequest& content) {
  json.at("id").get_to(content.id);
  const auto text = [&json](const char* name) -> std::optional<std::string> {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_string()) return std::nullopt;
    return found->get<std::string>();
  };
  content.uuid = text("uuid");
  content.reason = text("reason");
  content.last_output = text("last_output");
}

void to_json(Json& json, const RegistrationNotification& content) {
  json = Json{{"id", content.id}, {"uuid", content.uuid}};
}
void from_json(const Json& json, RegistrationNotification& content) {
  json.at("id").get_to(content.id);
  json.at("uuid").get_to(content.uuid);
}

void to_json(Json& json, const UnregistrationNotification& content) {
  json = Json{{"id", content.id}, {"uuid", content.uuid}};
}
void from_json(const Json& json, UnregistrationNotification& content) {
  json.at("id").get_to(content.id);
  json.at("uuid").get_to(content.uuid);
}

void to_json(Json& json, const ConnectionReply& content) {
  json = Json{{"status", content.status}, {"engines", content.engines}};
}
void from_json(const Json& json, ConnectionReply& content) {
  json.at("status").get_to(content.status);
  json.at("engines").get_to(content.engines);
}

void to_json(Json& json, const QueueRequest& content) {
  json = Json{{"targets", content.targets}, {"verbose", content.verbose}};
}
void from_json(const Json& json, QueueRequest& content) {
  require_object(json);
  optional_entry(json, "targets", content.targets);
  optional_entry(json, "verbose", content.verbose);
}

void to_json(Json& json, const LoadRequest& content) { json = Json{{"targets", content.targets}}; }
void from_json(const Json& json, LoadRequest& content) {
  require_object(json);
  optional_entry(json, "targets", content.targets);
}

void to_json(Json& json, const ResultRequest& content) {
  json = Json{{"msg_ids", content.msg_ids}, {"status_only", content.status_only}};
}
void from_json(const Json& json, ResultRequest& content) {
  require_object(json);
  msg_ids_entry(json, content.msg_ids);
  optional_entry(json, "status_only", content.status_only);
}

void to_json(Json& json, const HistoryReply& content) {
  json = Json{{"status", content.status}, {"history", content.history}};
}
void from_json(const Json& json, HistoryReply& content) {
  json.at("status").get_to(content.status);
  json.at("history").get_to(content.history);
}

void to_json(Json& json, const DbRequest& content) {
  json = Json{{"query", content.query}, {"keys", content.keys}};
}
void from_json(const Json& json, DbRequest& content) {
  require_object(json);
  optional_entry(json, "query", content.query);
  optional_entry(json, "keys", content.keys);
}

void to_json(Json& json, const DbReply& content) {
  json = Json{{"status", content.status},
              {"records", content.records},
              {"buffer_lens", content.buffer_lens},
              {"result_buffer_lens", content.result_buffer_lens}};
}
void from_json(const Json& json, DbReply& content) {
  json.at("status").get_to(content.status);
  optional_entry(json, "records", content.records);
  optional_entry(json, "buffer_lens", content.buffer_lens);
  optional_entry(json, "result_buffer_lens", content.result_buffer_lens);
}

void to_json(Json& json, const PurgeRequest& content) {
  json = Json{{"msg_ids", content.msg_ids}, {"engine_ids", content.engine_ids}};
}
void from_json(const Json& json, PurgeRequest& content) {
  require_object(json);
  optional_entry(json, "msg_ids", content.msg_ids);
  optional_entry(json, "engine_ids", content.engine_ids);
}

void to_json(Json& json, const ResubmitRequest& content) {
  json = Json{{"msg_ids", content.msg_ids}};
}
void from_json(const Json& json, ResubmitRequest& content) {
  require_object(json);
  msg_ids_entry(json, content.msg_ids);
}

void to_json(Json& json, const ResubmitReply& content) {
  json = Json{{"status", content.status}, {"resubmitted", content.resubmitted}};
}
void from_json(const Json& json, ResubmitReply& content) {
  json.at("status").get_to(content.status);
  optional_entry(json, "resubmitted", content.resubmitted);
}

void to_json(Json& json, const ShutdownRequest& content) {
  json = Json{{"restart", content.restart}};
}
void from_json(const Json& json, ShutdownRequest& content) {
  require_object(json);
  optional_entry(json, "restart", content.restart);
}

void to_json(Json& json, const ShutdownReply& content) {
  json = Json{{"status", content.status}, {"restart", content.restart}};
}
void from_json(const Json& json, ShutdownReply& content) {
  json.at("status").get_to(content.status);
  optional_entry(json, "restart", content.restart);
}

void to_json(Json& json, const ExecuteRequest& content) {
  json = Json{{"code", content.code},
              {"silent", content.silent},
              {"store_history", content.store_history},
              {"allow_stdin", content.allow_stdin},
              {"stop_on_error", content.stop_on_error},
              {"user_expressions", content.user_expressions}};
}
void from_json(const Json& json, ExecuteRequest& content) {
  json.at("code").get_to(content.code);
  optional_entry(json, "silent", content.silent);
  content.store_history = !content.silent;
  optional_entry(json, "store_history", content.store_history);
  optional_entry(json, "allow_stdin", content.allow_stdin);
  optional_entry(json, "stop_on_error", content.stop_on_error);
  optional_entry(json, "user_expressions", content.user_expressions);
}

void to_json(Json& json, const OkReply& content) { json = Json{{"status", content.status}}; }
void from_json(const Json& json, OkReply& content) { json.at("status").get_to(content.status); }

void to_json(Json& json, const ErrorContent& content) {
  json = Json{{"status", content.status},
              {"ename", content.ename},
              {"evalue", content.evalue},
              {"traceback", content.traceback},
              {"engine_info", content.engine_info}};
}
void from_json(const Json& json, ErrorContent& content) {
  json.at("ename").get_to(content.ename);
  json.at("evalue").get_to(content.evalue);
  optional_entry(json, "status", content.status);
  optional_entry(json, "traceback", content.traceback);
  optional_entry(json, "engine_info", content.engine_info);
}

void to_json(Json& json, const AbortRequest& content) { json = Json{{"msg_ids", content.msg_ids}}; }
void from_json(const Json& json, AbortRequest& content) {
  require_object(json);
  msg_ids_entry(json, content.msg_ids);
}

void to_json(Json& json, const SignalRequest& content) {
  json = Json::object();
  std::visit([&](const auto& signal) { json["sig"] = signal; }, content.sig);
}
void from_json(const Json& json, SignalRequest& content) {
  const Json& signal = json.at("sig");
  if (signal.is_string()) {
    content.sig = signal.get<std::string>();
  } else {
    content.sig = signal.get<int>();
  }
}

void to_json(Json& json, const StreamContent& content) {
  json = Json{{"name", content.name}, {"text", content.text}};
}
void from_json(const Json& json, StreamContent& content) {
  json.at("name").get_to(content.name);
  json.at("text").get_to(content.text);
}

void to_json(Json& json, const StatusContent& content) {
  json = Json{{"execution_state", content.execution_state}};
}
void from_json(const Json& json, StatusContent& content) {
  json.at("execution_state").get_to(content.execution_state);
}

void to_json(Json& json, const ExecuteInput& content) {
  json = Json{{"code", content.code}, {"execution_count", content.execution_count}};
}
void from_json(const Json& json, ExecuteInput& content) {
  json.at("code").get_to(content.code);
  optional_entry(json, "execution_count", content.execution_count);
}

void to_json(Json& json, const ExecuteResult& content) {
  json = Json{{"data", content.data},
              {"metadata", content.metadata},
              {"execution_count", content.execution_count}};
}
void from_json(const Json& json, ExecuteResult& content) {
  json.at("data").get_to(content.data);
  optional_entry(json, "metadata", content.metadata);
  optional_entry(json, "execution_count", content.execution_count);
}

void to_json(Json& json, const DisplayData& content) {
  json = Json{
      {"data", content.data}, {"metadata", content.metadata}, {"transient", content.transient}};
}
void from_json(const Json& json, DisplayData& content) {
  json.at("data").get_to(content.data);
  optional_entry(json, "metadata", content.metadata);
  optional_entry(json, "transient", content.transient);
}

void to_json(Json& json, const ErrorOutput& content) {
  json =
      Json{{"ename", content.ename}, {"evalue", content.evalue}, {"traceback", content.traceback}};
}
void from_json(const Json& json, ErrorOutput& content) {
  json.at("ename").get_to(content.ename);
  json.at("evalue").get_to(content.evalue);
  optional_entry(json, "traceback", content.traceback);
}

void to_json(Json& json, const DataMessage& content) { json = Json{{"keys", content.keys}}; }
void from_json(const Json& json, DataMessage& content) { json.at("keys").get_to(content.keys); }

void to_json(Json& json, const TaskDestination& content) {
  json = Json{{"msg_id", content.msg_id}, {"engine_id", content.engine_id}};
}
void from_json(const Json& json, TaskDestination& content) {
  json.at("msg_id").get_to(content.msg_id);
  json.at("engine_id").get_to(content.engine_id);
}

void to_json(Json& json, const NewHeart& content) { json = Json{{"hearts", content.hearts}}; }
void from_json(const Json& json, NewHeart& content) { json.at("hearts").get_to(content.hearts); }

void to_json(Json& json, const StoppedHeart& content) { json = Json{{"hearts", content.hearts}}; }
void from_json(const Json& json, StoppedHeart& content) {
  json.at("hearts").get_to(content.hearts);
}

Json error_content(const std::string& name, const std::string& value) {
  ErrorContent content;
  content.ename = name;
  // str() of a KeyError is the repr() of its text.
  content.evalue = name == "KeyError" ? python_repr(value) : value;
  content.traceback = {name + ": " + content.evalue};
  return content;
}

}  // namespace ddipp::protocol
