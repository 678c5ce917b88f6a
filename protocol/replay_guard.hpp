// Remembers the signatures of recent messages, so that a recorded message sent again is refused.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <string_view>
#include <vector>

namespace ddipp::protocol {

// Of each signature it keeps 64 bits: two different ones of the last 2^16 are taken for the same
// once in 2^48 messages. An open-addressed table and a ring, without an allocation a message.
class ReplayGuard {
 public:
  // The stock Session keeps 2^16 signatures.
  explicit ReplayGuard(std::size_t limit = std::size_t{1} << 16U)
      : limit_(limit),
        slot_count_(std::bit_ceil(2 * limit + 2)),
        slots_(static_cast<std::uint64_t*>(std::calloc(slot_count_, sizeof(std::uint64_t)))) {
    if (!slots_) throw std::bad_alloc();
  }

  // True the first time; false while `signature` is among the last `limit` accepted ones.
  bool accept(std::string_view signature) {
    const std::uint64_t mark = mark_of(signature);
    std::size_t slot = home(mark);
    for (; slots_[slot] != kEmpty; slot = next(slot)) {
      if (slots_[slot] == mark) return false;
    }
    slots_[slot] = mark;
    if (ring_.size() < limit_) {
      ring_.push_back(mark);
      return true;
    }
    forget(ring_[oldest_]);
    ring_[oldest_] = mark;
    oldest_ = (oldest_ + 1) % limit_;
    return true;
  }

  std::size_t size() const { return ring_.size(); }

 private:
  static constexpr std::uint64_t kEmpty = 0;

  static std::uint64_t mark_of(std::string_view signature) {
    const std::uint64_t mark = std::hash<std::string_view>()(signature);
    return mark == kEmpty ? 1 : mark;
  }
  std::size_t home(std::uint64_t mark) const { return mark & (slot_count_ - 1); }
  std::size_t next(std::size_t slot) const { return (slot + 1) & (slot_count_ - 1); }

  // Takes a mark out and moves up those that it stood in the way of (linear probing).
  void forget(std::uint64_t mark) {
    std::size_t hole = home(mark);
    while (slots_[hole] != mark) hole = next(hole);
    for (std::size_t slot = next(hole); slots_[slot] != kEmpty; slot = next(slot)) {
      const std::size_t from_home = (slot - home(slots_[slot])) & (slot_count_ - 1);
      const std::size_t from_hole = (slot - hole) & (slot_count_ - 1);
      if (from_home < from_hole) continue;  // it would land before its home
      slots_[hole] = slots_[slot];
      hole = slot;
    }
    slots_[hole] = kEmpty;
  }

  struct Free {
    void operator()(std::uint64_t* memory) const { std::free(memory); }
  };

  std::size_t limit_;
  std::size_t slot_count_;
  // Marks, 0 for none, never more than half of them and one; pages that are not used take no
  // memory.
  std::unique_ptr<std::uint64_t[], Free> slots_;
  std::vector<std::uint64_t> ring_;  // marks in the order of their coming, from oldest_
  std::size_t oldest_ = 0;
};

}  // namespace ddipp::protocol
