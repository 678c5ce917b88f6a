// Limits what one request prints: of what is beyond the limit only the end is shown. Pure.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/stream_coalescer.hpp"

namespace ddipp::engine {

class OutputLimit {
 public:
  // `limit`: bytes of one request and stream.
  explicit OutputLimit(std::size_t limit) : limit_(limit) {}

  // What of `text` goes out now, with a notice where the limit is reached.
  std::vector<StreamText> admit(StreamText text);

  // The request ends: how much was left out, and the end of it.
  std::vector<StreamText> finish(std::string_view parent_header);

 private:
  static constexpr std::size_t kTail = 64 * 1024;
  static constexpr std::size_t kRequests = 64;  // of those the counts are known

  struct Count {
    std::string name;
    std::string parent_header;
    std::size_t sent = 0;
    std::uint64_t left_out = 0;
    bool told = false;
    std::string tail;  // at most twice kTail
  };
  Count& count_of(const StreamText& text);
  static void leave_out(Count& count, std::string_view text);

  std::size_t limit_;
  std::deque<Count> counts_;
};

// How many bytes at the end of `text` are the beginning of a UTF-8 character that is not complete.
std::size_t incomplete_utf8(std::string_view text);

// The first place at or after `position` where a character begins.
std::size_t next_character(std::string_view text, std::size_t position);

}  // namespace ddipp::engine
