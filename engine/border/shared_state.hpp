// What the worker leaves for its supervisor in memory that both map: it is there however the worker
// ends.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <system_error>

namespace ddipp::engine {

// The end of what the worker printed. Any thread of it writes; the reader comes once it is dead.
class LastWords {
 public:
  void append(std::string_view text) {
    if (text.size() > kSize) text.remove_prefix(text.size() - kSize);
    const std::uint64_t start = written_.fetch_add(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
      bytes_[(start + i) % kSize].store(text[i], std::memory_order_relaxed);
    }
  }

  std::string text() const {
    const std::uint64_t end = written_.load();
    const std::uint64_t begin = end - std::min<std::uint64_t>(end, kSize);
    std::string result;
    for (std::uint64_t i = begin; i < end; ++i) result += bytes_[i % kSize].load();
    return result;
  }

 private:
  static constexpr std::size_t kSize = 4096;
  std::atomic<std::uint64_t> written_{0};
  std::array<std::atomic<char>, kSize> bytes_{};
};

struct SharedState {
  std::atomic<int> engine_id{-1};
  std::atomic<bool> registered{false};
  std::atomic<bool> served{false};
  std::atomic<bool> stopping{false};
  std::atomic<bool> gave_up{false};
  std::atomic<bool> restart_asked{false};
  std::atomic<bool> said_goodbye{false};  // it told the controller itself
  LastWords last_words;
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

// Maps a file that holds one. Throws std::system_error.
inline SharedState* map_shared_state(int fd) {
  void* memory = ::mmap(nullptr, sizeof(SharedState), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  return static_cast<SharedState*>(memory);
}

}  // namespace ddipp::engine
