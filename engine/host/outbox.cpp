#include "engine/host/outbox.hpp"

#include <utility>

namespace ddipp::engine {

void Outbox::push(Outgoing outgoing) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    if (const auto* write = std::get_if<StreamWrite>(&outgoing))
      stream_bytes_ += write->text.size();
    queue_.push_back(std::move(outgoing));
    if (queue_.size() > 1) return;  // the event is raised already
  }
  net::raise_event(event_.get());
}

void Outbox::wait_for_room() {
  std::unique_lock lock(mutex_);
  room_.wait(lock, [this] { return closed_ || stream_bytes_ <= kLimit; });
}

std::deque<Outgoing> Outbox::take_all() {
  net::clear_event(event_.get());
  std::deque<Outgoing> taken;
  {
    const std::lock_guard lock(mutex_);
    taken = std::exchange(queue_, {});
    stream_bytes_ = 0;
  }
  room_.notify_all();
  return taken;
}

void Outbox::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  room_.notify_all();
}

}  // namespace ddipp::engine
