#include "protocol/net/shared_frame.hpp"

#include <memory>

#include "protocol/net/multipart.hpp"

namespace ddipp::net {
namespace {

constexpr std::size_t kSmall = 512;  // bytes

void release(void* /*data*/, void* hint) {
  delete static_cast<std::shared_ptr<const void>*>(
      hint);  // NOLINT(cppcoreguidelines-owning-memory)
}

}  // namespace

protocol::Blob share(zmq::message_t& frame) {
  if (frame.size() <= kSmall) return protocol::Blob(std::string(view(frame)));
  auto owner = std::make_shared<zmq::message_t>();
  owner->copy(frame);  // shares the memory
  const auto bytes = view(*owner);
  return {std::move(owner), bytes};
}

zmq::message_t make_frame(const protocol::Blob& blob) {
  if (blob.size() <= kSmall) return make_frame(blob.view());
  auto owner = std::make_unique<std::shared_ptr<const void>>(blob.owner());
  // ZeroMQ does not write to what it sends.
  auto* data =
      const_cast<char*>(blob.view().data());  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  zmq::message_t frame(data, blob.size(), release, owner.get());
  owner.release();
  return frame;
}

}  // namespace ddipp::net
