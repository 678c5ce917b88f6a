#include "controller/core/record.hpp"

#include <algorithm>

#include "protocol/fields.hpp"

namespace ddipp::controller {

using protocol::Json;
using protocol::Timestamp;

namespace {

Json unpacked(const std::string& packed, protocol::Packing packing) {
  if (packed.empty()) return nullptr;
  auto value = protocol::unpack(packed, packing);
  return value ? std::move(*value) : Json(nullptr);
}

std::string text_in(const std::string& packed, protocol::Packing packing, std::string_view name) {
  std::string value;
  protocol::read_texts(packed, packing, {{name, value}});
  return value;
}

Json or_null(std::string text) { return text.empty() ? Json(nullptr) : Json(std::move(text)); }

Json date_or_null(const std::optional<Timestamp>& time) {
  return time ? Json(protocol::iso8601(*time)) : Json(nullptr);
}

// A date in a part of a message, in the one form that we answer with.
Json date_in(const std::string& packed, protocol::Packing packing, std::string_view name) {
  return date_or_null(protocol::parse_iso8601(text_in(packed, packing, name)));
}

}  // namespace

std::size_t Parts::size() const {
  std::size_t bytes = header.size() + metadata.size() + content.size();
  for (const auto& buffer : buffers) bytes += buffer.size();
  return bytes;
}

std::string_view name(Queue queue) {
  switch (queue) {
    case Queue::mux:
      return "mux";
    case Queue::task:
      return "task";
    case Queue::broadcast:
      return "broadcast";
  }
  return "";
}

Queue queue_from_name(std::string_view name) {
  return name == "task" ? Queue::task : name == "mux" ? Queue::mux : Queue::broadcast;
}

std::size_t Record::size() const {
  constexpr std::size_t kOverhead = 512;  // the object itself and its place in the tables
  return kOverhead + request.size() + (result ? result->size() : 0) + output.size() +
         error_output.size() + execute_input.size() + execute_result.size() + error.size();
}

std::optional<Timestamp> Record::submitted() const {
  return protocol::parse_iso8601(text_in(request.header, packing, "date"));
}

bool is_record_key(std::string_view key) {
  return std::find(kRecordKeys.begin(), kRecordKeys.end(), key) != kRecordKeys.end();
}

bool is_date_key(std::string_view key) {
  return key == "submitted" || key == "started" || key == "completed" || key == "received";
}

Json field(const Record& record, std::string_view key) {
  const auto packing = record.packing;
  const Parts& request = record.request;
  if (key == "msg_id") return record.msg_id;
  if (key == "header") return unpacked(request.header, packing);
  if (key == "metadata") return unpacked(request.metadata, packing);
  if (key == "content") return unpacked(request.content, packing);
  if (key == "buffers") return request.buffers.size();
  if (key == "submitted") return date_or_null(record.submitted());
  if (key == "client_uuid") return or_null(text_in(request.header, packing, "session"));
  if (key == "engine_uuid") return or_null(record.engine);
  if (key == "resubmitted") return or_null(record.resubmitted);
  if (key == "received") return date_or_null(record.received);
  if (key == "queue") return name(record.queue);
  if (key == "execute_input") return or_null(record.execute_input);
  if (key == "execute_result") return unpacked(record.execute_result, packing);
  if (key == "error") return unpacked(record.error, packing);
  if (key == "stdout") return record.output;
  if (key == "stderr") return record.error_output;
  if (key == "label") return or_null(text_in(request.metadata, packing, "label"));
  if (!record.result) return nullptr;
  const Parts& result = *record.result;
  if (key == "started") return date_in(result.metadata, packing, "started");
  if (key == "completed") return date_in(result.header, packing, "date");
  if (key == "result_header") return unpacked(result.header, packing);
  if (key == "result_metadata") return unpacked(result.metadata, packing);
  if (key == "result_content") return unpacked(result.content, packing);
  if (key == "result_buffers") return result.buffers.size();
  return nullptr;
}

}  // namespace ddipp::controller
