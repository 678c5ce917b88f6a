// What the last requests have shown, so that a client that was not there can show it again. Pure.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace ddipp::engine {

struct KeptOutput {
  std::string msg_type;
  std::string content;  // packed
};

class OutputHistory {
 public:
  struct Entry {
    std::string parent_header;  // packed header of the request
    std::deque<KeptOutput> outputs;
    std::size_t bytes = 0;
    std::size_t left_out = 0;  // outputs dropped from the front
  };

  // Whether messages of this type show something.
  static bool keeps(std::string_view msg_type);

  void add(std::string_view parent_header, std::string_view msg_type, std::string_view content);

  // Oldest first.
  const std::deque<Entry>& entries() const { return entries_; }

 private:
  static constexpr std::size_t kRequests = 64;
  static constexpr std::size_t kBytes = 1024 * 1024;  // of one request

  std::deque<Entry> entries_;
};

}  // namespace ddipp::engine
