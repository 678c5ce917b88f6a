#include "engine/core/stream_coalescer.hpp"

#include <algorithm>

namespace ddipp::engine {

using namespace std::chrono_literals;

std::string collapse_overwritten(std::string_view text) {
  if (text.find('\r') == std::string_view::npos) return std::string(text);
  std::string result;
  std::size_t line_start = 0;  // in result
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    // A "\r" at the very end may be half of "\r\n" or clear the line: it is kept as it is.
    if (text[i] == '\r' && next != '\n' && next != '\0' && next != '\r') {
      result.resize(line_start);
      result += '\r';
      continue;
    }
    result += text[i];
    if (text[i] == '\n') line_start = result.size();
  }
  return result;
}

void StreamCoalescer::write(std::string_view name, std::string_view parent_header,
                            std::string_view text, TimePoint now) {
  if (text.empty()) return;
  const bool continues = !waiting_.empty() && waiting_.back().name == name &&
                         waiting_.back().parent_header == parent_header;
  if (continues) {
    waiting_.back().text += text;
  } else {
    waiting_.push_back({std::string(name), std::string(parent_header), std::string(text)});
  }
  size_ += text.size();
  if (!due_) {
    due_ = now + kGather;
    if (last_taken_) due_ = std::max(*due_, *last_taken_ + kPause);
  }
  if (size_ >= kFlushSize) due_ = now;
}

std::vector<StreamText> StreamCoalescer::take(TimePoint now) {
  if (waiting_.empty()) return {};
  for (auto& stream : waiting_) stream.text = collapse_overwritten(stream.text);
  last_taken_ = now;
  due_.reset();
  size_ = 0;
  return std::exchange(waiting_, {});
}

}  // namespace ddipp::engine
