// The content of every message that clients, controller and engines exchange (ipyparallel
// reference, "messages"; Jupyter messaging for the kernel's own).
//
// Each struct names its message type in `type` and converts with nlohmann's to_json and get<T>().
// Input from a peer goes through parse_content(), which reports instead of throwing.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "protocol/packing.hpp"
#include "protocol/result.hpp"

namespace ddipp::protocol {

// --- registration: engine <-> hub -------------------------------------------------------------

struct RegistrationRequest {
  static constexpr const char* type = "registration_request";
  std::string uuid;       // also the routing identity of all sockets of a stock engine
  std::optional<int> id;  // wish, granted when free
  int relay = 0;          // ours: the version of routes and relay tags that the engine knows
};

struct RegistrationReply {
  static constexpr const char* type = "registration_reply";
  std::string status = "ok";
  int id = 0;
  int hb_period = 0;  // milliseconds between pings
  Json connection_info = Json::object();
  int relay = 0;  // ours: the version that counts from now on, 0 for none
};

struct UnregistrationRequest {
  static constexpr const char* type = "unregistration_request";
  int id = 0;
  // Ours, from an engine's supervisor: how its process ended.
  std::optional<std::string> uuid;
  std::optional<std::string> reason;
  std::optional<std::string> last_output;
};

// --- notification: hub -> every client --------------------------------------------------------

struct RegistrationNotification {
  static constexpr const char* type = "registration_notification";
  int id = 0;
  std::string uuid;
};

struct UnregistrationNotification {
  static constexpr const char* type = "unregistration_notification";
  int id = 0;
  std::string uuid;
};

struct ShutdownNotification {
  static constexpr const char* type = "shutdown_notification";
};

// --- queries: client <-> hub ------------------------------------------------------------------

struct ConnectionRequest {
  static constexpr const char* type = "connection_request";
};

struct ConnectionReply {
  static constexpr const char* type = "connection_reply";
  std::string status = "ok";
  std::map<std::string, std::string> engines;  // id as text -> uuid
};

// Engine ids or uuids; absent means all engines.
struct QueueRequest {
  static constexpr const char* type = "queue_request";
  Json targets = nullptr;
  bool verbose = false;
};

struct LoadRequest {
  static constexpr const char* type = "load_request";
  Json targets = nullptr;
};

struct ResultRequest {
  static constexpr const char* type = "result_request";
  std::vector<std::string> msg_ids;
  bool status_only = false;
};

struct HistoryRequest {
  static constexpr const char* type = "history_request";
};

struct HistoryReply {
  static constexpr const char* type = "history_reply";
  std::string status = "ok";
  std::vector<std::string> history;
};

struct DbRequest {
  static constexpr const char* type = "db_request";
  Json query = Json::object();  // Mongo-style
  Json keys = nullptr;          // list of record keys, or null for all
};

struct DbReply {
  static constexpr const char* type = "db_reply";
  std::string status = "ok";
  Json records = Json::array();
  Json buffer_lens = nullptr;  // buffers of each record, or null when not asked for
  Json result_buffer_lens = nullptr;
};

struct PurgeRequest {
  static constexpr const char* type = "purge_request";
  Json msg_ids = Json::array();  // list, or "all"
  Json engine_ids = Json::array();
};

struct ResubmitRequest {
  static constexpr const char* type = "resubmit_request";
  std::vector<std::string> msg_ids;
};

struct ResubmitReply {
  static constexpr const char* type = "resubmit_reply";
  std::string status = "ok";
  std::map<std::string, std::string> resubmitted;  // old msg_id -> new msg_id
};

// To the hub it stops the controller, on the control channel the engine.
struct ShutdownRequest {
  static constexpr const char* type = "shutdown_request";
  bool restart = false;
};

struct ShutdownReply {
  static constexpr const char* type = "shutdown_reply";
  std::string status = "ok";
  bool restart = false;
};

// --- execution: client <-> engine -------------------------------------------------------------

// The call itself travels in the buffers.
struct ApplyRequest {
  static constexpr const char* type = "apply_request";
};

struct ExecuteRequest {
  static constexpr const char* type = "execute_request";
  std::string code;
  bool silent = false;
  bool store_history = true;
  bool allow_stdin = false;
  bool stop_on_error = true;
  Json user_expressions = Json::object();
};

struct OkReply {
  std::string status = "ok";
};

// Content of any reply with status "error", and of hub_error.
struct ErrorContent {
  std::string status = "error";
  std::string ename;
  std::string evalue;
  std::vector<std::string> traceback;
  Json engine_info = Json::object();
};

// --- control: client <-> engine ---------------------------------------------------------------

struct AbortRequest {
  static constexpr const char* type = "abort_request";
  std::vector<std::string> msg_ids;  // empty: everything that is queued
};

struct ClearRequest {
  static constexpr const char* type = "clear_request";
};

struct InterruptRequest {
  static constexpr const char* type = "interrupt_request";
};

struct SignalRequest {
  static constexpr const char* type = "signal_request";
  std::variant<int, std::string> sig;  // 2 or "SIGINT"
};

// --- iopub: engine -> every client ------------------------------------------------------------

struct StreamContent {
  static constexpr const char* type = "stream";
  std::string name;  // "stdout" or "stderr"
  std::string text;
};

struct StatusContent {
  static constexpr const char* type = "status";
  std::string execution_state;  // "busy", "idle", "starting"
};

struct ExecuteInput {
  static constexpr const char* type = "execute_input";
  std::string code;
  int execution_count = 0;
};

struct ExecuteResult {
  static constexpr const char* type = "execute_result";
  Json data = Json::object();  // mime type -> representation
  Json metadata = Json::object();
  int execution_count = 0;
};

struct DisplayData {
  static constexpr const char* type = "display_data";
  Json data = Json::object();
  Json metadata = Json::object();
  Json transient = Json::object();
};

struct ErrorOutput {
  static constexpr const char* type = "error";
  std::string ename;
  std::string evalue;
  std::vector<std::string> traceback;
};

// publish_data: the values travel in the buffers.
struct DataMessage {
  static constexpr const char* type = "data_message";
  std::vector<std::string> keys;
};

// --- inside the stock controller; read from recordings and by tools ----------------------------

struct TaskDestination {
  static constexpr const char* type = "task_destination";
  std::string msg_id;
  std::string engine_id;  // uuid
};

struct NewHeart {
  static constexpr const char* type = "new_heart";
  std::vector<std::string> hearts;  // uuids
};

struct StoppedHeart {
  static constexpr const char* type = "stopped_heart";
  std::vector<std::string> hearts;
};

// --- conversion -------------------------------------------------------------------------------

#define DDIPP_CONTENT(Type)              \
  void to_json(Json& json, const Type&); \
  void from_json(const Json& json, Type&)
DDIPP_CONTENT(RegistrationRequest);
DDIPP_CONTENT(RegistrationReply);
DDIPP_CONTENT(UnregistrationRequest);
DDIPP_CONTENT(RegistrationNotification);
DDIPP_CONTENT(UnregistrationNotification);
DDIPP_CONTENT(ShutdownNotification);
DDIPP_CONTENT(ConnectionRequest);
DDIPP_CONTENT(ConnectionReply);
DDIPP_CONTENT(QueueRequest);
DDIPP_CONTENT(LoadRequest);
DDIPP_CONTENT(ResultRequest);
DDIPP_CONTENT(HistoryRequest);
DDIPP_CONTENT(HistoryReply);
DDIPP_CONTENT(DbRequest);
DDIPP_CONTENT(DbReply);
DDIPP_CONTENT(PurgeRequest);
DDIPP_CONTENT(ResubmitRequest);
DDIPP_CONTENT(ResubmitReply);
DDIPP_CONTENT(ShutdownRequest);
DDIPP_CONTENT(ShutdownReply);
DDIPP_CONTENT(ApplyRequest);
DDIPP_CONTENT(ExecuteRequest);
DDIPP_CONTENT(OkReply);
DDIPP_CONTENT(ErrorContent);
DDIPP_CONTENT(AbortRequest);
DDIPP_CONTENT(ClearRequest);
DDIPP_CONTENT(InterruptRequest);
DDIPP_CONTENT(SignalRequest);
DDIPP_CONTENT(StreamContent);
DDIPP_CONTENT(StatusContent);
DDIPP_CONTENT(ExecuteInput);
DDIPP_CONTENT(ExecuteResult);
DDIPP_CONTENT(DisplayData);
DDIPP_CONTENT(ErrorOutput);
DDIPP_CONTENT(DataMessage);
DDIPP_CONTENT(TaskDestination);
DDIPP_CONTENT(NewHeart);
DDIPP_CONTENT(StoppedHeart);
#undef DDIPP_CONTENT

// Content of an error reply as the client's exceptions expect it: the name of the exception, its
// text and a traceback of that one line.
Json error_content(const std::string& name, const std::string& value);

// The content as `T`, or one line saying which entry is missing or of the wrong type.
template <class T>
Result<T> parse_content(const Json& json) {
  try {
    return json.get<T>();
  } catch (const Json::exception& error) {
    return Failure{std::string(error.what())};
  }
}

}  // namespace ddipp::protocol
