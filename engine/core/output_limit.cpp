#include "engine/core/output_limit.hpp"

#include <algorithm>
#include <cstdio>

namespace ddipp::engine {
namespace {

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U; }

std::string mebibytes(std::uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1024.0 * 1024.0));
  return text;
}

}  // namespace

std::size_t incomplete_utf8(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (continues(text[text.size() - back])) continue;
    const std::size_t length = byte >= 0xF0U ? 4 : byte >= 0xE0U ? 3 : byte >= 0xC0U ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

std::size_t next_character(std::string_view text, std::size_t position) {
  while (position < text.size() && continues(text[position])) ++position;
  return position;
}

OutputLimit::Count& OutputLimit::count_of(const StreamText& text) {
  const auto found = std::find_if(counts_.rbegin(), counts_.rend(), [&](const Count& count) {
    return count.name == text.name && count.parent_header == text.parent_header;
  });
  if (found != counts_.rend()) return *found;
  if (counts_.size() >= kRequests) counts_.pop_front();
  counts_.push_back({text.name, text.parent_header, 0, 0, false, {}});
  return counts_.back();
}

void OutputLimit::leave_out(Count& count, std::string_view text) {
  count.left_out += text.size();
  count.tail += text.substr(text.size() - std::min(text.size(), kTail));
  if (count.tail.size() > 2 * kTail) count.tail.erase(0, count.tail.size() - kTail);
}

std::vector<StreamText> OutputLimit::admit(StreamText text) {
  Count& count = count_of(text);
  const std::size_t room = limit_ - std::min(limit_, count.sent);
  if (text.text.size() <= room) {
    count.sent += text.text.size();
    std::vector<StreamText> all;
    all.push_back(std::move(text));
    return all;
  }
  const std::size_t cut = room == 0 ? 0 : next_character(text.text, room);
  leave_out(count, std::string_view(text.text).substr(cut));
  count.sent = limit_;
  text.text.resize(cut);
  std::vector<StreamText> admitted;
  if (!text.text.empty()) admitted.push_back(text);
  if (!count.told) {
    count.told = true;
    admitted.push_back({"stderr", text.parent_header,
                        "\n[dipengine: " + mebibytes(limit_) + " printed to " + text.name +
                            "; of the rest only the end will be shown (--output-limit)]\n"});
  }
  return admitted;
}

std::vector<StreamText> OutputLimit::finish(std::string_view parent_header) {
  std::vector<StreamText> rest;
  for (Count& count : counts_) {
    if (count.parent_header != parent_header || count.left_out == 0) continue;
    const std::size_t shown = std::min(count.tail.size(), kTail);
    std::size_t start = next_character(count.tail, count.tail.size() - shown);
    // Begin with a whole line where there is one.
    if (count.left_out > shown) {
      const auto line = count.tail.find('\n', start);
      if (line != std::string::npos && line + 1 < count.tail.size()) start = line + 1;
    }
    const std::string tail = count.tail.substr(start);
    if (count.left_out > tail.size()) {
      rest.push_back({"stderr", count.parent_header,
                      "[dipengine: " + mebibytes(count.left_out - tail.size()) + " of " +
                          count.name + " left out]\n"});
    }
    rest.push_back({count.name, count.parent_header, tail});
    count.left_out = 0;
    count.tail.clear();
  }
  return rest;
}

}  // namespace ddipp::engine
