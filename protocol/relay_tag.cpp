#include "protocol/relay_tag.hpp"

#include <charconv>
#include <utility>
#include <vector>

namespace ddipp::protocol {
namespace {

// "ddipp1", channel, epoch and count in 16 hexadecimal digits each, code.
constexpr std::string_view kPrefix = "ddipp1";
constexpr std::size_t kDigits = 16;
constexpr std::size_t kRouteCode = 32;
constexpr std::size_t kStamp = kPrefix.size() + 1 + 2 * kDigits;

std::string hexadecimal(std::uint64_t value) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text(kDigits, '0');
  for (std::size_t i = kDigits; i-- > 0; value >>= 4U) text[i] = digits[value & 0xFU];
  return text;
}

std::uint64_t number(std::string_view digits) {
  std::uint64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return value;
}

std::string tag_code(const Session& session, std::string_view stamp, std::string_view uuid,
                     std::string_view signature, std::string_view buffers_code) {
  const std::array<std::string_view, 5> parts{stamp, uuid, ".", signature, buffers_code};
  return session.code("ddipp relay", parts);
}

// In the same time wherever the first difference is.
bool equal(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  }
  return difference == 0;
}

}  // namespace

std::string make_route(const Session& session, const std::string& uuid) {
  const std::array<std::string_view, 1> parts{uuid};
  return uuid + "." + session.code("ddipp route", parts).substr(0, kRouteCode);
}

std::string_view uuid_of(std::string_view route) { return route.substr(0, route.find('.')); }

bool is_route(std::string_view identity) { return identity.find('.') != std::string_view::npos; }

bool is_genuine(const Session& session, std::string_view route) {
  return is_route(route) && equal(make_route(session, std::string(uuid_of(route))), route);
}

std::string buffers_code(const Session& session, std::span<const std::string_view> buffers) {
  if (buffers.empty()) return {};
  std::vector<std::string> sizes;
  sizes.reserve(buffers.size());
  for (const auto& buffer : buffers) sizes.push_back(hexadecimal(buffer.size()));
  std::vector<std::string_view> parts;
  parts.reserve(2 * buffers.size());
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    parts.push_back(sizes[i]);
    parts.push_back(buffers[i]);
  }
  return session.code("ddipp buffers", parts);
}

std::string RelayTags::make(const Session& session, std::string_view uuid,
                            std::string_view signature, std::string_view buffers_code) {
  std::string tag(kPrefix);
  tag += static_cast<char>('0' + static_cast<int>(channel_));
  tag += hexadecimal(epoch_);
  tag += hexadecimal(++count_);
  tag += tag_code(session, tag, uuid, signature, buffers_code);
  return tag;
}

bool is_relay_tag(std::string_view frame) {
  return frame.size() > kStamp && frame.starts_with(kPrefix);
}

bool RelayCheck::accept(const Session& session, std::string_view tag, std::string_view uuid,
                        std::string_view signature, std::string_view buffers_code) {
  if (!is_relay_tag(tag)) return false;
  const auto stamp = tag.substr(0, kStamp);
  if (!equal(tag_code(session, stamp, uuid, signature, buffers_code), tag.substr(kStamp))) {
    return false;
  }
  const auto channel = static_cast<std::size_t>(stamp[kPrefix.size()] - '0');
  const Last now{number(stamp.substr(kPrefix.size() + 1, kDigits)),
                 number(stamp.substr(kPrefix.size() + 1 + kDigits))};
  Last& last = last_.at(channel);
  if (std::pair(now.epoch, now.count) <= std::pair(last.epoch, last.count)) return false;
  last = now;
  return true;
}

}  // namespace ddipp::protocol
