#include "controller/relays/direct_channel.hpp"

#include "controller/core/routing.hpp"
#include "controller/relays/wire_records.hpp"
#include "protocol/extensions.hpp"
#include "protocol/fields.hpp"

namespace ddipp::controller {

// [client, engine, delimiter, ...]
void DirectChannel::on_request(net::Multipart& message, net::Clock::time_point now) {
  const auto frames = net::views(message);
  const auto envelope = services_.session.verify(frames, services_.guards[kind_.requests]);
  if (!envelope || envelope->delimiter != 2) {
    const auto why = envelope ? "it does not name one engine" : describe(envelope.error());
    return services_.complaints.add(kind_.name, why, now);
  }
  const std::string engine(frames[1]);
  const auto record = make_record(*envelope, message, services_.session.packing(),
                                  std::string(frames[0]), engine, Queue::mux);
  if (!record) return services_.complaints.add(kind_.name, "its header can't be read", now);
  const bool has_reply = record->msg_type.ends_with("_request");
  if (!services_.registry.contains(engine)) {
    if (!has_reply) return;
    return fail(*record, "EngineError", "there is no engine with uuid " + engine + " (it is gone)");
  }
  if (has_reply) {
    const auto why = services_.refusal(ledger_, *record);
    if (!why.empty()) return fail(*record, "MemoryError", why);
    ledger_.submit(record);
  }
  swap_identities(message);
  outlet_.send(engine, std::move(message), now);
}

// [engine, client, delimiter, ...]
void DirectChannel::on_reply(net::Multipart& message, net::Clock::time_point now) {
  name_by_uuid(message);
  const auto frames = net::views(message);
  const auto envelope = services_.session.verify(frames, services_.guards[kind_.replies]);
  if (!envelope || envelope->delimiter < 2) {
    const auto why = envelope ? "it names no receiver" : describe(envelope.error());
    return services_.complaints.add(kind_.name + " replies", why, now);
  }
  const auto msg_id = parent_id(*envelope, services_.session.packing());
  if (!ledger_.finish(msg_id, parts_of(*envelope, message), std::chrono::system_clock::now())) {
    return services_.log.debug("dropped a late answer to request {}", msg_id);
  }
  if (observer_) {
    std::string type;
    protocol::read_texts(envelope->header, services_.session.packing(), {{"msg_type", type}});
    observer_(std::string(frames[0]), type, now);
  }
  swap_identities(message);
  net::send(channel_.front, message);
}

void DirectChannel::remove_engine(const Engine& engine, const std::string& why) {
  outlet_.forget(engine.uuid);
  for (const auto& record : ledger_.outstanding_on(engine.uuid)) {
    if (record->queue != Queue::mux) continue;
    fail(*record, "EngineError", death_text(std::to_string(engine.id), record->msg_id, why),
         protocol::extensions::death_entry({first_line(why)}));
  }
}

void DirectChannel::fail(const Record& record, const std::string& name, const std::string& why,
                         const protocol::Json& ours) {
  const auto now = std::chrono::system_clock::now();
  auto reply = error_reply(record, name, why, services_.session, now, ours);
  services_.log.warn("request {} failed: {}", record.msg_id, first_line(why));
  ledger_.give_up(record.msg_id, std::move(reply.parts), now);
  net::send(channel_.front, reply.frames);
}

void DirectChannel::tick(net::Clock::time_point now) {
  outlet_.retry(now, [this](const std::string& engine, net::Multipart& message) {
    const auto record = ledger_.find(request_id(message, services_.session));
    if (record) fail(*record, "EngineError", "engine " + engine + " can't be reached");
  });
}

}  // namespace ddipp::controller
