// Remembers which messages came by, so that a recorded message sent again is refused.
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>

namespace ddipp::protocol {

// Of each signature it keeps 64 bits: two different ones of the last 2^16 are taken for the same
// once in 2^48 messages. When a mark is forgotten, its sender's count stays: Jupyter's message ids
// end in a number that grows, and what comes by one socket comes in order, so whatever a sender
// numbered up to there is old. One guard for each socket therefore.
//
// The memory may be a mapped file: a successor with the same key goes on where this one ended.
class ReplayGuard {
 public:
  // The stock Session keeps 2^16 signatures.
  static constexpr std::size_t kLimit = std::size_t{1} << 16U;

  explicit ReplayGuard(std::size_t limit = kLimit) : ReplayGuard(limit, {}) {}

  // `memory` has words(limit) words: zeros, or what an earlier guard of the same limit left there.
  ReplayGuard(std::size_t limit, std::span<std::uint64_t> memory)
      : limit_(limit),
        slot_count_(std::bit_ceil(2 * limit + 2)),
        slots_(zeros(slot_count_)),
        own_(memory.empty() ? zeros(words(limit)) : nullptr),
        words_(memory.empty() ? std::span(own_.get(), words(limit)) : memory) {
    for (std::size_t i = 0; i < size(); ++i) {
      if (entry(i).mark != kEmpty && !known(entry(i).mark)) insert(entry(i).mark);
    }
  }

  static constexpr std::size_t words(std::size_t limit) {
    return 1 + limit * kEntryWords + 2 * kSenders;
  }

  // True the first time; false while `signature` is among the last `limit` accepted ones, and for
  // any message that its sender numbered no higher than one that was forgotten since.
  bool accept(std::string_view signature, std::string_view msg_id = {}) {
    const std::uint64_t mark = mark_of(signature);
    if (known(mark)) return false;
    const auto number = numbered(msg_id);
    if (number && is_old(*number)) return false;
    Entry& place = entry(static_cast<std::size_t>(count() % limit_));
    if (count() >= limit_) {
      forget(place.mark);
      if (place.sender != kEmpty) raise_floor(place);
    }
    place = {mark, number ? number->sender : kEmpty, number ? number->count : 0};
    insert(mark);
    ++count();
    return true;
  }

  bool contains(std::string_view signature) const { return known(mark_of(signature)); }
  std::size_t size() const {
    return static_cast<std::size_t>(std::min<std::uint64_t>(words_[0], limit_));
  }

 private:
  static constexpr std::uint64_t kEmpty = 0;
  static constexpr std::size_t kEntryWords = 3;
  static constexpr std::size_t kSenders = std::size_t{1} << 13U;

  struct Entry {
    std::uint64_t mark, sender, count;
  };
  static_assert(sizeof(Entry) == kEntryWords * sizeof(std::uint64_t));
  struct Numbered {
    std::uint64_t sender, count;
  };
  struct Free {
    void operator()(std::uint64_t* memory) const { std::free(memory); }
  };
  using Words = std::unique_ptr<std::uint64_t[], Free>;

  static Words zeros(std::size_t count) {  // pages that are not used take no memory
    auto* memory = static_cast<std::uint64_t*>(std::calloc(count, sizeof(std::uint64_t)));
    if (memory == nullptr) throw std::bad_alloc();
    return Words(memory);
  }

  static std::uint64_t mark_of(std::string_view text) {
    const std::uint64_t mark = std::hash<std::string_view>()(text);
    return mark == kEmpty ? 1 : mark;
  }

  // "<sender>_<number>"; other ids have no number.
  static std::optional<Numbered> numbered(std::string_view msg_id) {
    const auto line = msg_id.rfind('_');
    if (line == std::string_view::npos) return std::nullopt;
    const auto digits = msg_id.substr(line + 1);
    std::uint64_t count = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), count);
    if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
    return Numbered{mark_of(msg_id.substr(0, line)), count};
  }

  std::uint64_t& count() { return words_[0]; }
  Entry& entry(std::size_t index) const {
    return *reinterpret_cast<Entry*>(&words_[1 + index * kEntryWords]);
  }

  // [sender, its highest forgotten number] pairs, by hash; a table that is full takes no more.
  std::uint64_t* floor_of(std::uint64_t sender) const {
    const auto table = words_.subspan(1 + limit_ * kEntryWords);
    for (std::size_t tries = 0, at = sender % kSenders; tries < kSenders; ++tries) {
      std::uint64_t* pair = &table[2 * at];
      if (pair[0] == sender || pair[0] == kEmpty) return pair;
      at = (at + 1) % kSenders;
    }
    return nullptr;
  }
  bool is_old(const Numbered& number) const {
    if (words_[0] <= limit_) return false;  // nothing was forgotten yet
    const std::uint64_t* pair = floor_of(number.sender);
    return pair != nullptr && pair[0] == number.sender && number.count <= pair[1];
  }
  void raise_floor(const Entry& forgotten) {
    std::uint64_t* pair = floor_of(forgotten.sender);
    if (pair == nullptr) return;
    if (pair[0] == kEmpty) pair[1] = forgotten.count;
    pair[0] = forgotten.sender;
    pair[1] = std::max(pair[1], forgotten.count);
  }

  std::size_t home(std::uint64_t mark) const { return mark & (slot_count_ - 1); }
  std::size_t next(std::size_t slot) const { return (slot + 1) & (slot_count_ - 1); }

  bool known(std::uint64_t mark) const {
    for (std::size_t slot = home(mark); slots_[slot] != kEmpty; slot = next(slot)) {
      if (slots_[slot] == mark) return true;
    }
    return false;
  }
  void insert(std::uint64_t mark) {
    std::size_t slot = home(mark);
    while (slots_[slot] != kEmpty) slot = next(slot);
    slots_[slot] = mark;
  }

  // Takes a mark out and moves up those that it stood in the way of (linear probing).
  void forget(std::uint64_t mark) {
    std::size_t hole = home(mark);
    while (slots_[hole] != mark) {
      if (slots_[hole] == kEmpty) return;  // of a file that somebody else wrote
      hole = next(hole);
    }
    for (std::size_t slot = next(hole); slots_[slot] != kEmpty; slot = next(slot)) {
      const std::size_t from_home = (slot - home(slots_[slot])) & (slot_count_ - 1);
      const std::size_t from_hole = (slot - hole) & (slot_count_ - 1);
      if (from_home < from_hole) continue;  // it would land before its home
      slots_[hole] = slots_[slot];
      hole = slot;
    }
    slots_[hole] = kEmpty;
  }

  std::size_t limit_;
  std::size_t slot_count_;
  Words slots_;  // marks, 0 for none, never more than half of them and one
  Words own_;    // when the memory is not somebody else's
  // How many were accepted; the last `limit` of them, in a ring; the senders' floors.
  std::span<std::uint64_t> words_;
};

}  // namespace ddipp::protocol
