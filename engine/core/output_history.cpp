#include "engine/core/output_history.hpp"

#include <algorithm>
#include <array>

namespace ddipp::engine {

bool OutputHistory::keeps(std::string_view msg_type) {
  constexpr std::array<std::string_view, 6> shown{
      "stream", "display_data", "update_display_data", "execute_result", "error", "clear_output"};
  return std::find(shown.begin(), shown.end(), msg_type) != shown.end();
}

void OutputHistory::add(std::string_view parent_header, std::string_view msg_type,
                        std::string_view content) {
  const auto found = std::find_if(entries_.rbegin(), entries_.rend(), [&](const Entry& entry) {
    return entry.parent_header == parent_header;
  });
  Entry* entry = found == entries_.rend() ? nullptr : &*found;
  if (entry == nullptr) {
    if (entries_.size() >= kRequests) entries_.pop_front();
    entry = &entries_.emplace_back();
    entry->parent_header = parent_header;
  }
  entry->outputs.push_back({std::string(msg_type), std::string(content)});
  entry->bytes += content.size();
  while (entry->bytes > kBytes && entry->outputs.size() > 1) {
    entry->bytes -= entry->outputs.front().content.size();
    entry->outputs.pop_front();
    ++entry->left_out;
  }
}

}  // namespace ddipp::engine
