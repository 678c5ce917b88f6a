#include "controller/core/pickled_buffers.hpp"

#include <cstdint>
#include <map>
#include <optional>

namespace ddipp::controller {

using protocol::Blob;

namespace {

// Opcodes of Python's pickletools.
constexpr char kProto = '\x80';
constexpr char kFrame = '\x95';
constexpr char kEmptyList = ']';
constexpr char kMark = '(';
constexpr char kAppend = 'a';
constexpr char kAppends = 'e';
constexpr char kShortBytes = 'C';  // 1 byte of length
constexpr char kBytes = 'B';       // 4 bytes
constexpr char kBytes8 = '\x8e';   // 8 bytes
constexpr char kByteArray8 = '\x96';
constexpr char kMemoize = '\x94';
constexpr char kPut = 'q';
constexpr char kLongPut = 'r';
constexpr char kGet = 'h';
constexpr char kLongGet = 'j';
constexpr char kStop = '.';

void append_number(std::string& text, std::uint64_t number, int bytes) {
  for (int i = 0; i < bytes; ++i) text += static_cast<char>((number >> (8U * unsigned(i))) & 0xFFU);
}

class Unpickler {
 public:
  explicit Unpickler(std::string_view text) : rest_(text) {}

  std::optional<std::vector<Blob>> read() {
    while (true) {
      const auto op = take(1);
      if (!op) return std::nullopt;
      if (op->front() == kStop) return list_seen_ ? std::optional(list_) : std::nullopt;
      if (!step(op->front())) return std::nullopt;
    }
  }

 private:
  // The top of the stack: the list, or a byte string that is not in it yet.
  bool step(char op) {
    switch (op) {
      case kProto:
        return take(1).has_value();
      case kFrame:
        return take(8).has_value();
      case kEmptyList:
        if (list_seen_) return false;
        list_seen_ = true;
        return true;
      case kMark:
        return true;
      case kShortBytes:
        return bytes(1);
      case kBytes:
        return bytes(4);
      case kBytes8:
      case kByteArray8:
        return bytes(8);
      case kMemoize:
        return put(memo_.size());
      case kPut:
        return put_at(1);
      case kLongPut:
        return put_at(4);
      case kGet:
        return get(1);
      case kLongGet:
        return get(4);
      case kAppend:
      case kAppends:
        list_.insert(list_.end(), stack_.begin(), stack_.end());
        stack_.clear();
        return true;
      default:
        return false;
    }
  }

  std::optional<std::string_view> take(std::uint64_t count) {
    if (rest_.size() < count) return std::nullopt;
    const auto taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::optional<std::uint64_t> number(std::size_t bytes) {
    const auto text = take(bytes);
    if (!text) return std::nullopt;
    std::uint64_t value = 0;
    for (std::size_t i = bytes; i-- > 0;) {
      value = (value << 8U) | static_cast<unsigned char>((*text)[i]);
    }
    return value;
  }

  bool bytes(std::size_t length_bytes) {
    const auto length = number(length_bytes);
    const auto text = length ? take(*length) : std::nullopt;
    if (!text) return false;
    stack_.emplace_back(std::string(*text));
    return true;
  }

  bool put(std::uint64_t index) {
    memo_[index] = stack_.empty() ? Blob() : stack_.back();
    return true;
  }
  bool put_at(std::size_t bytes) {
    const auto index = number(bytes);
    return index && put(*index);
  }
  bool get(std::size_t bytes) {
    const auto index = number(bytes);
    const auto found = index ? memo_.find(*index) : memo_.end();
    if (found == memo_.end()) return false;
    stack_.push_back(found->second);
    return true;
  }

  std::string_view rest_;
  std::vector<Blob> list_, stack_;
  std::map<std::uint64_t, Blob> memo_;
  bool list_seen_ = false;
};

}  // namespace

std::string pickle_buffers(const std::vector<Blob>& buffers) {
  std::string text{kProto, '\x04', kEmptyList, kMark};
  for (const auto& buffer : buffers) {
    text += kBytes8;
    append_number(text, buffer.size(), 8);
    text += buffer.view();
  }
  text += kAppends;
  text += kStop;
  return text;
}

Result<std::vector<Blob>> unpickle_buffers(std::string_view pickled) {
  auto buffers = Unpickler(pickled).read();
  if (!buffers) return Failure{std::string("the buffers are no pickled list of byte strings")};
  return std::move(*buffers);
}

}  // namespace ddipp::controller
