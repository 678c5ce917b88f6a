// Texts as Python writes them: what clients show of errors was made by Python in ipcontroller.
#pragma once

#include <string>
#include <string_view>

namespace ddipp::protocol {

// repr() of a str, but for what can't be printed beyond ASCII.
inline std::string python_repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  constexpr std::string_view digits = "0123456789abcdef";
  std::string result(1, quote);
  for (const char letter : text) {
    const auto code = static_cast<unsigned char>(letter);
    if (letter == quote || letter == '\\') {
      result += {'\\', letter};
    } else if (letter == '\n') {
      result += "\\n";
    } else if (code < 0x20 || code == 0x7F) {
      result += {'\\', 'x', digits[code >> 4U], digits[code & 0xFU]};
    } else {
      result += letter;
    }
  }
  return result + quote;
}

}  // namespace ddipp::protocol
