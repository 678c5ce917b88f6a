#include "protocol/net/reactor.hpp"

#include <algorithm>
#include <cerrno>

namespace ddipp::net {

void Reactor::add(zmq::socket_t& socket, MessageHandler handler) {
  auto source = std::make_unique<Source>();
  source->socket = &socket;
  source->on_message = std::move(handler);
  sources_.push_back(std::move(source));
  changed_ = true;
}

void Reactor::add(int fd, FdHandler handler) {
  auto source = std::make_unique<Source>();
  source->fd = fd;
  source->on_readable = std::move(handler);
  sources_.push_back(std::move(source));
  changed_ = true;
}

void Reactor::remove(zmq::socket_t& socket) {
  for (auto& source : sources_) {
    if (source->socket == &socket) source->removed = true;
  }
  changed_ = true;
}

void Reactor::remove(int fd) {
  for (auto& source : sources_) {
    if (source->socket == nullptr && source->fd == fd) source->removed = true;
  }
  changed_ = true;
}

void Reactor::on_tick(DeadlineSource next_deadline, std::function<void(Clock::time_point)> tick) {
  next_deadline_ = std::move(next_deadline);
  tick_ = std::move(tick);
}

std::chrono::milliseconds Reactor::wait_time() const {
  const auto deadline = next_deadline_ ? next_deadline_() : std::nullopt;
  if (!deadline) return std::chrono::milliseconds(-1);
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now());
  return std::clamp(left, std::chrono::milliseconds(0), std::chrono::milliseconds(60'000));
}

void Reactor::sweep() {
  if (!changed_) return;
  std::erase_if(sources_, [](const auto& source) { return source->removed; });
  items_.clear();
  for (const auto& source : sources_) {
    items_.push_back(
        {source->socket ? source->socket->handle() : nullptr, source->fd, ZMQ_POLLIN, 0});
  }
  changed_ = false;
}

void Reactor::dispatch(Source& source) {
  if (source.socket == nullptr) return source.on_readable();
  Multipart message;
  for (int i = 0; i < kBurst && !source.removed && receive(*source.socket, message); ++i) {
    source.on_message(message);
  }
}

void Reactor::turn() {
  sweep();
  try {
    zmq::poll(items_, wait_time());
  } catch (const zmq::error_t& error) {
    if (error.num() != EINTR) throw;
    return;
  }
  const std::size_t count =
      items_.size();  // handlers may add sources; those wait for the next turn
  for (std::size_t i = 0; i < count; ++i) {
    if ((items_[i].revents & (ZMQ_POLLIN | ZMQ_POLLERR)) != 0 && !sources_[i]->removed) {
      dispatch(*sources_[i]);
    }
  }
  if (!tick_) return;
  const auto now = Clock::now();
  const auto deadline = next_deadline_();
  if (deadline && *deadline <= now) tick_(now);
}

void Reactor::run() {
  running_ = true;
  while (running_) turn();
}

}  // namespace ddipp::net
