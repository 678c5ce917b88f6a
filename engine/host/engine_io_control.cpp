// Requests: those that the io thread answers itself, while Python may hold the GIL, and those that
// it hands on.
#include <csignal>
#include <exception>

#include "engine/host/connections.hpp"
#include "engine/host/engine_io.hpp"
#include "engine/host/engine_replies.hpp"
#include "protocol/content.hpp"
#include "protocol/extensions.hpp"

namespace ddipp::engine {

using namespace std::chrono_literals;
namespace extensions = protocol::extensions;
using protocol::Json;

namespace {

const char* name_of(Interrupted outcome) {
  switch (outcome) {
    case Interrupted::sent:
      return "sent";
    case Interrupted::kept:
      return "kept";
    case Interrupted::idle:
      return "idle";
    case Interrupted::gone:
      return "gone";
  }
  return "";
}

}  // namespace

void EngineIo::on_request(ChannelName channel, net::Multipart& message) {
  const auto frames = net::views(message);
  const auto envelope = session_.verify(frames);
  if (!envelope) {
    return shared_.log.warn("ignored a request: {}", protocol::describe(envelope.error()));
  }
  if (tagged_ && !admitted(*envelope, frames)) {
    return shared_.log.warn(
        "ignored a request '{}': it did not come by the controller as its sender made it",
        envelope->msg_type);
  }
  const auto header = protocol::unpack(envelope->header, session_.packing());
  const auto parsed = header ? protocol::parse_header(*header) : Failure{header.error()};
  if (!parsed) return shared_.log.warn("ignored a request: {}", parsed.error());

  Request request;
  request.channel = channel;
  request.msg_type = parsed->msg_type;
  request.msg_id = parsed->msg_id;
  for (std::size_t i = 0; i < envelope->delimiter; ++i) {
    if (tagged_ && protocol::is_relay_tag(frames[i])) continue;  // it is for us
    request.identities.emplace_back(frames[i]);
  }
  const std::size_t first = envelope->delimiter + 2;
  request.header = std::move(message[first]);
  request.parent_header = std::move(message[first + 1]);
  request.metadata = std::move(message[first + 2]);
  request.content = std::move(message[first + 3]);
  for (std::size_t i = envelope->first_buffer; i < message.size(); ++i) {
    request.buffers.push_back(std::move(message[i]));
  }
  if (channel == ChannelName::control) {
    try {
      return on_control(request);
    } catch (const std::exception& error) {
      shared_.log.error("request '{}' could not be handled: {}", parsed->msg_type, error.what());
      if (request.identities.empty()) return;
      return reply(request, protocol::reply_type(parsed->msg_type),
                   protocol::error_content("RuntimeError", error.what()), Json::object());
    }
  }
  if (shared_.inbox.aborted_in_advance(request.msg_id)) return answer_aborted(request);
  shared_.inbox.push(std::move(request));
}

// A Jupyter console that is attached to this engine sends without a tag, and no buffers: they are
// what is not signed, and apply_request unpickles them.
bool EngineIo::admitted(const protocol::Verified& message,
                        std::span<const std::string_view> frames) {
  const auto tag = message.delimiter == 0 ? std::string_view() : frames[message.delimiter - 1];
  const auto buffers = frames.subspan(message.first_buffer);
  if (!protocol::is_relay_tag(tag)) {
    return sockets_.heartbeat && buffers.empty() &&
           message.msg_type != protocol::ApplyRequest::type;
  }
  return relay_check_.accept(session_, tag, options_.uuid, message.signature,
                             protocol::buffers_code(session_, buffers));
}

void EngineIo::on_control(Request& request) {
  const std::string& type = request.msg_type;
  if (type == protocol::AbortRequest::type) return with_status(request, &EngineIo::abort_request);
  if (type == protocol::SignalRequest::type) return signal_request(request);
  if (type == protocol::ShutdownRequest::type) {
    return with_status(request, &EngineIo::shutdown_request);
  }
  if (type == protocol::InterruptRequest::type) {
    return with_status(request, &EngineIo::interrupt_request);
  }
  if (type == "debug_request") return shared_.debug_inbox.push(std::move(request));
  if (type == extensions::CutRequest::type) return cut_request(request);
  if (type == extensions::ReplayRequest::type) return replay_request(request);
  if (type == extensions::ReportRequest::type) return report_request(request);
  shared_.inbox.push(std::move(request));
}

// Ours: frees a rank that waits in a collective.
void EngineIo::cut_request(Request& request) {
  const auto json = protocol::unpack(net::view(request.content), session_.packing());
  const auto wish = protocol::parse_content<extensions::CutRequest>(json ? *json : Json("?"));
  if (!wish) {
    return reply(request, extensions::CutRequest::reply_type,
                 protocol::error_content("ValueError", "the generation is not a number"),
                 Json::object());
  }
  const int present = shared_.group_guard.generation();
  const int generation = wish->generation.value_or(present);
  extensions::CutReply answer;
  if (wish->unanswered && !shared_.inbox.unanswered_for()) {
    return reply(request, extensions::CutRequest::reply_type, answer, Json::object());
  }
  answer.connections = shared_.group_guard.cut(generation);
  if (wish->everything && generation == present) {
    shared_.log.warn("asked to shut down all connections but the engine's own");
    answer.connections += shut_down_connections(sockets_.ports());
  }
  reply(request, extensions::CutRequest::reply_type, answer, Json::object());
}

// Ours: what a request has shown, for a client that was not there.
void EngineIo::replay_request(Request& request) {
  const auto asked = protocol::unpack(net::view(request.content), session_.packing());
  const auto wish = protocol::parse_content<extensions::ReplayRequest>(asked ? *asked : Json());
  const std::string msg_id = wish ? wish->msg_id : "";
  Json answer{{"status", "ok"}, {"msg_id", nullptr}, {"outputs", Json::array()}, {"left_out", 0}};
  const auto& entries = history_.entries();
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    const auto header = protocol::unpack(entry->parent_header, session_.packing());
    const std::string id = header ? protocol::text_in(*header, "msg_id") : "";
    if (!msg_id.empty() && id != msg_id) continue;
    answer["msg_id"] = id;
    answer["left_out"] = entry->left_out;
    for (const auto& output : entry->outputs) {
      auto content = protocol::unpack(output.content, session_.packing());
      if (!content) continue;
      answer["outputs"].push_back({{"msg_type", output.msg_type}, {"content", *content}});
    }
    break;
  }
  reply(request, extensions::ReplayRequest::reply_type, answer, Json::object());
}

// Clients may wait for the "idle" of any request.
void EngineIo::with_status(Request& request, void (EngineIo::*handler)(Request&)) {
  publish_status(request, "busy");
  (this->*handler)(request);
  publish_status(request, "idle");
}

void EngineIo::publish_status(const Request& request, const char* state) {
  send(sockets_.iopub, {topic("status")}, packed_header("status"), net::view(request.header),
       protocol::pack(Json{{"engine", options_.uuid}}, session_.packing()),
       protocol::pack(Json{{"execution_state", state}}, session_.packing()));
}

void EngineIo::interrupt_request(Request& request) {
  shared_.inbox.interrupt();
  reply(request, "interrupt_reply", protocol::OkReply{}, Json::object());
}

void EngineIo::abort_request(Request& request) {
  const auto json = protocol::unpack(net::view(request.content), session_.packing());
  const auto content = protocol::parse_content<protocol::AbortRequest>(json ? *json : Json());
  if (content) {
    for (const Request& aborted : shared_.inbox.remove(content->msg_ids)) answer_aborted(aborted);
  }
  reply(request, "abort_reply", protocol::OkReply{}, Json::object());
}

void EngineIo::signal_request(Request& request) {
  const auto json = protocol::unpack(net::view(request.content), session_.packing());
  const auto content = protocol::parse_content<protocol::SignalRequest>(json ? *json : Json());
  const auto number = content ? signal_number(*content) : std::nullopt;
  if (!number) {
    return reply(request, "signal_reply",
                 protocol::error_content("ValueError", "there is no such signal"), Json::object());
  }
  shared_.log.info("asked for signal {}", *number);
  Json answer = protocol::OkReply{};
  if (*number == SIGINT) {
    const auto wish = protocol::parse_content<extensions::InterruptFor>(*json);
    const auto outcome = shared_.inbox.interrupt(wish ? wish->msg_id : "");
    answer[extensions::kEntry] = {{"interrupt", name_of(outcome)}};
  }
  reply(request, "signal_reply", answer, Json::object());
  if (*number == SIGINT || *number == 0) return;  // 0 asks only whether the engine is there
  // A deadly signal waits until the reply is on its way.
  pending_signal_ = *number;
  signal_at_ = net::Clock::now() + 20ms;
}

void EngineIo::shutdown_request(Request& request) {
  const auto json = protocol::unpack(net::view(request.content), session_.packing());
  const auto content = protocol::parse_content<protocol::ShutdownRequest>(json ? *json : Json());
  protocol::ShutdownReply answer;
  answer.restart = content && content->restart;
  reply(request, protocol::ShutdownReply::type, answer, Json::object());
  shutdown_asked_by_ = net::view(request.header);
  shutdown_reply_ = protocol::pack(answer, session_.packing());
  // Jupyter's own word for it; the supervisor does the rest.
  if (answer.restart) shared_.state.restart_asked = true;
  begin_stop(0, answer.restart ? "a client asked for a restart" : "a client asked for shutdown");
}

void EngineIo::answer_aborted(const Request& request) {
  const auto metadata = protocol::unpack(net::view(request.metadata), session_.packing());
  publish_status(request, "busy");
  reply(request, protocol::reply_type(request.msg_type), Json{{"status", "aborted"}},
        aborted_metadata(metadata ? *metadata : Json(), options_.uuid,
                         std::chrono::system_clock::now()));
  publish_status(request, "idle");
}

}  // namespace ddipp::engine
