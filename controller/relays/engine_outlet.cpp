#include "controller/relays/engine_outlet.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace ddipp::controller {

void EngineOutlet::send(const std::string& engine, net::Multipart message,
                        net::Clock::time_point now, std::optional<std::string>* buffers_code) {
  const Engine* known = services_.registry.get(engine);
  if (known != nullptr && !known->route.empty()) address(*known, message, buffers_code);
  if (!held_.contains(engine) && net::send(socket_, message) == net::SendStatus::sent) return;
  if (held_.empty()) next_try_ = now + kRetryInterval;
  held_[engine].push_back({std::move(message), now + kPatience});
}

// [uuid, client, delimiter, signature, ...] becomes [route, client, tag, delimiter, ...].
void EngineOutlet::address(const Engine& engine, net::Multipart& message,
                           std::optional<std::string>* buffers_code) {
  const auto frames = net::views(message);
  const auto delimiter = std::find(frames.begin(), frames.end(), protocol::kDelimiter);
  if (frames.end() - delimiter < 6) return;
  std::optional<std::string> code;
  if (buffers_code == nullptr) buffers_code = &code;
  if (!*buffers_code) {
    *buffers_code = protocol::buffers_code(services_.session, {delimiter + 6, frames.end()});
  }
  const std::string tag = tags_.make(services_.session, engine.uuid, delimiter[1], **buffers_code);
  message[0] = net::make_frame(engine.route);
  message.insert(message.begin() + (delimiter - frames.begin()), net::make_frame(tag));
}

void name_by_uuid(net::Multipart& reply) {
  if (reply.empty()) return;
  const auto sender = net::view(reply.front());
  if (protocol::is_route(sender)) reply.front() = net::make_frame(protocol::uuid_of(sender));
}

void EngineOutlet::retry(net::Clock::time_point now, const GiveUp& give_up) {
  if (held_.empty() || now < next_try_) return;
  next_try_ = now + kRetryInterval;
  std::vector<std::pair<std::string, net::Multipart>> given_up;
  for (auto entry = held_.begin(); entry != held_.end();) {
    auto& [engine, queue] = *entry;
    while (!queue.empty()) {
      Waiting& first = queue.front();
      if (net::send(socket_, first.message) != net::SendStatus::sent) {
        if (now < first.give_up) break;
        given_up.emplace_back(engine, std::move(first.message));
      }
      queue.pop_front();
    }
    entry = queue.empty() ? held_.erase(entry) : std::next(entry);
  }
  for (auto& [engine, message] : given_up) give_up(engine, message);  // may send, or forget engines
}

}  // namespace ddipp::controller
