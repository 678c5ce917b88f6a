#include "protocol/iso8601.hpp"

#include <array>
#include <charconv>
#include <cstdio>
#include <ctime>

namespace ddipp::protocol {
namespace {

// Takes what it has read off the front of a text.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : rest_(text) {}

  bool literal(char wanted) {
    if (rest_.empty() || rest_.front() != wanted) return false;
    rest_.remove_prefix(1);
    return true;
  }

  bool digits(std::size_t count, int& value) {
    if (rest_.size() < count) return false;
    const char* end = rest_.data() + count;
    const auto [stopped, error] = std::from_chars(rest_.data(), end, value);
    if (error != std::errc() || stopped != end || value < 0) return false;
    rest_.remove_prefix(count);
    return true;
  }

  std::optional<std::chrono::microseconds> fraction() {
    std::int64_t micros = 0;
    std::size_t count = 0;
    for (; !rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9'; ++count) {
      if (count < 6) micros = micros * 10 + (rest_.front() - '0');
      rest_.remove_prefix(1);
    }
    if (count == 0 || count > 9) return std::nullopt;
    for (; count < 6; ++count) micros *= 10;
    return std::chrono::microseconds(micros);
  }

  // Seconds to subtract for UTC.
  std::optional<int> offset() {
    if (rest_.empty() || literal('Z')) return 0;
    const int sign = literal('+') ? 1 : literal('-') ? -1 : 0;
    int hours = 0;
    int minutes = 0;
    if (sign == 0 || !digits(2, hours)) return std::nullopt;
    literal(':');
    if (!digits(2, minutes)) return std::nullopt;
    return sign * (hours * 3600 + minutes * 60);
  }

  bool done() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

}  // namespace

std::string iso8601(Timestamp time) {
  using std::chrono::microseconds;
  const auto since_epoch =
      std::chrono::duration_cast<microseconds>(time.time_since_epoch()).count();
  std::int64_t seconds = since_epoch / 1'000'000;
  std::int64_t micros = since_epoch % 1'000'000;
  if (micros < 0) {
    micros += 1'000'000;
    --seconds;
  }
  const auto clock = static_cast<std::time_t>(seconds);
  std::tm utc{};
  gmtime_r(&clock, &utc);
  std::array<char, 64> text{};
  const int length = std::snprintf(text.data(), text.size(), "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
                                   utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour,
                                   utc.tm_min, utc.tm_sec, static_cast<int>(micros));
  return {text.data(), static_cast<std::size_t>(length)};
}

std::optional<Timestamp> parse_iso8601(std::string_view text) {
  Scanner scan(text);
  std::tm utc{};
  if (!scan.digits(4, utc.tm_year) || !scan.literal('-') || !scan.digits(2, utc.tm_mon) ||
      !scan.literal('-') || !scan.digits(2, utc.tm_mday) ||
      !(scan.literal('T') || scan.literal(' ')) || !scan.digits(2, utc.tm_hour) ||
      !scan.literal(':') || !scan.digits(2, utc.tm_min) || !scan.literal(':') ||
      !scan.digits(2, utc.tm_sec)) {
    return std::nullopt;
  }
  // A Timestamp counts nanoseconds in 64 bits.
  if (utc.tm_year < 1700 || utc.tm_year > 2200 || utc.tm_mon < 1 || utc.tm_mon > 12 ||
      utc.tm_mday < 1 || utc.tm_mday > 31 || utc.tm_hour > 23 || utc.tm_min > 59 ||
      utc.tm_sec > 60) {
    return std::nullopt;
  }
  std::chrono::microseconds fraction{0};
  if (scan.literal('.')) {
    const auto read = scan.fraction();
    if (!read) return std::nullopt;
    fraction = *read;
  }
  const auto offset = scan.offset();
  if (!offset || !scan.done()) return std::nullopt;
  utc.tm_year -= 1900;
  utc.tm_mon -= 1;
  const std::time_t seconds = timegm(&utc) - *offset;
  return Timestamp(
      std::chrono::duration_cast<Timestamp::duration>(std::chrono::seconds(seconds) + fraction));
}

}  // namespace ddipp::protocol
