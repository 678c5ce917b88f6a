#include "controller/relays/wire_records.hpp"

#include <array>

#include <fmt/format.h>

#include "controller/core/routing.hpp"
#include "controller/relays/channel_services.hpp"
#include "protocol/content.hpp"
#include "protocol/extensions.hpp"
#include "protocol/fields.hpp"
#include "protocol/net/shared_frame.hpp"

namespace ddipp::controller {

using protocol::Json;

Parts parts_of(const protocol::Verified& envelope, net::Multipart& message) {
  Parts parts{std::string(envelope.header),
              std::string(envelope.metadata),
              std::string(envelope.content),
              {}};
  parts.buffers.reserve(message.size() - envelope.first_buffer);
  for (std::size_t i = envelope.first_buffer; i < message.size(); ++i) {
    parts.buffers.push_back(net::share(message[i]));
  }
  return parts;
}

std::string ChannelServices::refusal(const Ledger& ledger, const Record& record) const {
  const std::size_t bytes = record.request.size();
  if (ledger.pending_bytes() + bytes <= queue_limit) return {};
  constexpr double kMiB = 1 << 20;
  return fmt::format(
      "the controller holds {:.1f} MiB of requests that have no result yet, and this one has "
      "{:.1f} "
      "MiB more; --queue-limit allows {:.1f} MiB. Wait for results, or raise the limit",
      static_cast<double>(ledger.pending_bytes()) / kMiB, static_cast<double>(bytes) / kMiB,
      static_cast<double>(queue_limit) / kMiB);
}

RecordPtr make_record(const protocol::Verified& envelope, net::Multipart& message,
                      protocol::Packing packing, std::string client, std::string engine,
                      Queue queue) {
  if (envelope.msg_id.empty()) return nullptr;
  auto record = std::make_shared<Record>();
  record->msg_id = envelope.msg_id;
  record->msg_type = envelope.msg_type;
  record->client = std::move(client);
  record->engine = std::move(engine);
  record->queue = queue;
  record->packing = packing;
  record->arrived = std::chrono::system_clock::now();
  record->request = parts_of(envelope, message);
  return record;
}

net::Multipart request_frames(const Record& record, const std::vector<std::string>& identities,
                              const protocol::Session& session) {
  const std::string parent = protocol::pack(Json::object(), record.packing);
  const Parts& request = record.request;
  const std::array<std::string_view, 4> parts{request.header, parent, request.metadata,
                                              request.content};
  net::Multipart frames;
  for (const auto& identity : identities) frames.push_back(net::make_frame(identity));
  frames.push_back(net::make_frame(protocol::kDelimiter));
  frames.push_back(net::make_frame(session.sign(parts)));
  for (const auto part : parts) frames.push_back(net::make_frame(part));
  for (const auto& buffer : request.buffers) frames.push_back(net::make_frame(buffer));
  return frames;
}

ErrorReply error_reply(const Record& record, const std::string& name, const std::string& why,
                       protocol::Session& session, protocol::Timestamp now, const Json& ours) {
  const auto asked = protocol::unpack(record.request.metadata, record.packing);
  protocol::Message reply;
  reply.identities = {record.client};
  reply.header = session.make_header(protocol::reply_type(record.msg_type), now);
  if (auto header = protocol::unpack(record.request.header, record.packing)) {
    reply.parent_header = std::move(*header);
  }
  reply.content = protocol::error_content(name, first_line(why));
  if (const auto end = why.find('\n'); end != std::string::npos) {
    reply.content["traceback"].push_back(why.substr(end + 1));
  }
  if (!ours.is_null()) reply.content[protocol::extensions::kEntry] = ours;
  // As ipcontroller: empty when no engine had it.
  if (!record.engine.empty()) {
    reply.metadata = {
        {"engine", record.engine}, {"status", "error"}, {"date", protocol::iso8601(now)}};
  }
  if (record.queue == Queue::broadcast && asked && asked->is_object()) {
    for (const char* key : {"is_broadcast", "is_coalescing", "original_msg_id"}) {
      if (asked->contains(key)) reply.metadata[key] = (*asked)[key];
    }
  }
  Parts parts{protocol::pack(Json(reply.header), record.packing),
              protocol::pack(reply.metadata, record.packing),
              protocol::pack(reply.content, record.packing),
              {}};
  return {net::make_multipart(session.seal(reply)), std::move(parts)};
}

std::string request_id(const net::Multipart& message, const protocol::Session& session) {
  const auto parts = session.reopen(net::views(message));
  return parts ? parts->msg_id : "";
}

std::string parent_id(const protocol::Verified& envelope, protocol::Packing packing) {
  std::string msg_id;
  protocol::read_texts(envelope.parent_header, packing, {{"msg_id", msg_id}});
  return msg_id;
}

}  // namespace ddipp::controller
