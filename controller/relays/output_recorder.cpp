#include "controller/relays/output_recorder.hpp"

#include "controller/relays/wire_records.hpp"
#include "protocol/content.hpp"
#include "protocol/fields.hpp"

namespace ddipp::controller {
namespace {

bool is_kept(const std::string& type) {
  return type == "stream" || type == "execute_input" || type == "execute_result" ||
         type == "error" || type == protocol::ShutdownReply::type;
}

}  // namespace

OutputRecorder::Seen OutputRecorder::look_at(const net::Multipart& message,
                                             net::Clock::time_point now) {
  const auto packing = services_.session.packing();
  const auto envelope =
      services_.session.verify(net::views(message), services_.guards[GuardOf::output]);
  if (!envelope) {
    services_.complaints.add("iopub", describe(envelope.error()), now);
    return {};
  }
  const std::string& type = envelope->msg_type;
  if (!is_kept(type)) return {true, std::nullopt};
  if (type == protocol::ShutdownReply::type) {
    std::string session;
    protocol::read_texts(envelope->header, packing, {{"session", session}});
    return {true, session};
  }
  record(type, parent_id(*envelope, packing), envelope->content);
  return {true, std::nullopt};
}

void OutputRecorder::record(const std::string& type, const std::string& msg_id,
                            std::string_view content) {
  if (msg_id.empty()) return;
  const auto packing = services_.session.packing();
  if (type == "execute_result") {
    return ledger_.output(msg_id, OutputKind::execute_result, content);
  }
  if (type == "error") return ledger_.output(msg_id, OutputKind::error, content);
  std::string name;
  std::string text;
  if (type == "execute_input") {
    protocol::read_texts(content, packing, {{"code", text}});
    return ledger_.output(msg_id, OutputKind::execute_input, text);
  }
  protocol::read_texts(content, packing, {{"name", name}, {"text", text}});
  ledger_.output(msg_id, name == "stderr" ? OutputKind::error_output : OutputKind::output, text);
}

}  // namespace ddipp::controller
