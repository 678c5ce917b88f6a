// Joins small writes to stdout and stderr into few messages. Pure: time comes in as an argument.
//
// Text waits 3 ms for more; while output keeps coming a message leaves every 30 ms, since a client
// redraws all it has for each. Within the waiting text a progress line that is overwritten by "\r"
// is dropped.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ddipp::engine {

struct StreamText {
  std::string name;           // "stdout" or "stderr"
  std::string parent_header;  // packed header of the request that the text belongs to
  std::string text;
};

class StreamCoalescer {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  void write(std::string_view name, std::string_view parent_header, std::string_view text,
             TimePoint now);

  // When the waiting text is due; nothing when none waits.
  std::optional<TimePoint> next_deadline() const { return due_; }

  // All waiting text in the order of writing; empties the buffer.
  std::vector<StreamText> take(TimePoint now);

 private:
  static constexpr std::size_t kFlushSize = 64 * 1024;
  static constexpr std::chrono::milliseconds kGather{3};
  static constexpr std::chrono::milliseconds kPause{30};

  std::vector<StreamText> waiting_;
  std::size_t size_ = 0;
  std::optional<TimePoint> due_;
  std::optional<TimePoint> last_taken_;
};

// Drops what later text on the same line overwrites: "1%\r2%\r3%" -> "\r3%". The leading "\r" stays
// since the line may have begun in an earlier message. "\r\n" is a line end.
std::string collapse_overwritten(std::string_view text);

}  // namespace ddipp::engine
