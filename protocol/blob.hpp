// Immutable bytes with shared ownership: a buffer that is relayed, stored and sent again is in
// memory once.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace ddipp::protocol {

class Blob {
 public:
  Blob() = default;
  explicit Blob(std::string bytes) {
    auto owner = std::make_shared<const std::string>(std::move(bytes));
    view_ = *owner;
    owner_ = std::move(owner);
  }
  // `owner` keeps the bytes of `view` alive.
  Blob(std::shared_ptr<const void> owner, std::string_view view)
      : owner_(std::move(owner)), view_(view) {}

  std::string_view view() const { return view_; }
  std::size_t size() const { return view_.size(); }
  const std::shared_ptr<const void>& owner() const { return owner_; }

 private:
  std::shared_ptr<const void> owner_;
  std::string_view view_;
};

}  // namespace ddipp::protocol
