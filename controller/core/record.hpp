// What the controller knows of one request: the request as it came, where it went, what came back
// and what was printed meanwhile. Pure.
//
// Parts of messages stay packed as they came from the wire and are read only when somebody asks.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/blob.hpp"
#include "protocol/iso8601.hpp"
#include "protocol/packing.hpp"

namespace ddipp::controller {

// A message without routing, signature and parent.
struct Parts {
  std::string header;
  std::string metadata;
  std::string content;
  std::vector<protocol::Blob> buffers;

  std::size_t size() const;  // bytes, buffers included
};

enum class Queue { mux, task, broadcast };

std::string_view name(Queue queue);
Queue queue_from_name(std::string_view name);

struct Record {
  std::string msg_id;
  std::string msg_type;
  std::string client;  // routing identity of who waits for the reply
  std::string engine;  // uuid; "" while none has it
  Queue queue = Queue::mux;
  protocol::Packing packing = protocol::Packing::json;
  protocol::Timestamp arrived;  // when the request came by
  Parts request;
  std::optional<Parts> result;
  std::optional<protocol::Timestamp> received;  // when the result came by
  std::string resubmitted;                      // msg_id of the later submission
  std::string execute_input;
  std::string output;          // stdout
  std::string error_output;    // stderr
  std::string execute_result;  // packed content
  std::string error;           // packed content

  bool finished() const { return result.has_value(); }
  std::size_t size() const;  // bytes
  std::optional<protocol::Timestamp> submitted() const;
};

using RecordPtr = std::shared_ptr<Record>;

// The keys of a record in a db_reply and the columns of ipyparallel's tasks.db, in its order.
inline constexpr std::array<std::string_view, 23> kRecordKeys{
    "msg_id",         "header",      "metadata",      "content",         "buffers",
    "submitted",      "client_uuid", "engine_uuid",   "started",         "completed",
    "resubmitted",    "received",    "result_header", "result_metadata", "result_content",
    "result_buffers", "queue",       "execute_input", "execute_result",  "error",
    "stdout",         "stderr",      "label"};

bool is_record_key(std::string_view key);
bool is_date_key(std::string_view key);

// One value of a record as JSON, dates as ISO 8601, null for what there is not (yet). Buffers are
// not JSON: they give their number.
protocol::Json field(const Record& record, std::string_view key);

}  // namespace ddipp::controller
