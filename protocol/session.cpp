#include "protocol/session.hpp"

#include <algorithm>
#include <array>

#include "protocol/fields.hpp"

namespace ddipp::protocol {

std::string_view describe(OpenError error) {
  switch (error) {
    case OpenError::no_delimiter:
      return "it has no <IDS|MSG> delimiter";
    case OpenError::too_few_frames:
      return "it has fewer than five frames after the delimiter";
    case OpenError::wrong_signature:
      return "its signature is wrong: the sender's connection file holds another key";
    case OpenError::replayed:
      return "its signature was seen before: the message was sent twice";
    case OpenError::bad_packing:
      return "a frame can't be unpacked";
    case OpenError::bad_header:
      return "its header has no msg_id or msg_type";
  }
  return "unknown error";
}

std::string make_uuid(std::span<const std::uint8_t, 16> random) {
  std::array<std::uint8_t, 16> bytes{};
  std::copy(random.begin(), random.end(), bytes.begin());
  bytes[6] = static_cast<std::uint8_t>((bytes[6] & 0x0FU) | 0x40U);
  bytes[8] = static_cast<std::uint8_t>((bytes[8] & 0x3FU) | 0x80U);
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += digits[bytes[i] >> 4U];
    text += digits[bytes[i] & 0xFU];
  }
  return text;
}

Session::Session(SessionOptions options, Hmac hmac)
    : options_(std::move(options)), hmac_(std::move(hmac)) {}

Result<Session> Session::make(SessionOptions options) {
  auto hmac = Hmac::make(options.key, options.signature_scheme);
  if (!hmac) return Failure{hmac.error()};
  return Session(std::move(options), std::move(*hmac));
}

Result<Verified, OpenError> Session::locate(std::span<const std::string_view> frames) {
  const auto delimiter = std::find(frames.begin(), frames.end(), kDelimiter);
  if (delimiter == frames.end()) return Failure{OpenError::no_delimiter};
  const auto rest = static_cast<std::size_t>(frames.end() - delimiter) - 1;
  if (rest < 5) return Failure{OpenError::too_few_frames};
  Verified parts;
  const auto index = static_cast<std::size_t>(delimiter - frames.begin());
  parts.delimiter = index;
  parts.signature = frames[index + 1];
  parts.header = frames[index + 2];
  parts.parent_header = frames[index + 3];
  parts.metadata = frames[index + 4];
  parts.content = frames[index + 5];
  parts.first_buffer = index + 6;
  return parts;
}

void Session::read_ids(Verified& parts) const {
  read_texts(parts.header, packing(), {{"msg_id", parts.msg_id}, {"msg_type", parts.msg_type}});
}

Result<Verified, OpenError> Session::verify(std::span<const std::string_view> frames,
                                            ReplayGuard& guard) {
  auto parts = locate(frames);
  if (!parts) return parts;
  if (hmac_.enabled()) {
    const std::array<std::string_view, 4> signed_parts{parts->header, parts->parent_header,
                                                       parts->metadata, parts->content};
    if (!hmac_.verify(signed_parts, parts->signature)) {
      return Failure{OpenError::wrong_signature};
    }
  }
  read_ids(*parts);
  if (!hmac_.enabled()) return parts;
  const bool is_own = own_ != nullptr && own_->contains(parts->signature);
  if (is_own || !guard.accept(parts->signature, parts->msg_id)) {
    return Failure{OpenError::replayed};
  }
  return parts;
}

Result<Verified, OpenError> Session::reopen(std::span<const std::string_view> frames) const {
  auto parts = locate(frames);
  if (parts) read_ids(*parts);
  return parts;
}

std::string Session::sign(std::span<const std::string_view> parts) const {
  auto signature = hmac_.sign(parts);
  if (own_ != nullptr && !signature.empty()) own_->accept(signature);
  return signature;
}

std::string Session::code(std::string_view purpose, std::span<const std::string_view> parts) const {
  std::vector<std::string_view> all{purpose, std::string_view("\0", 1)};
  all.insert(all.end(), parts.begin(), parts.end());
  return hmac_.sign(all);
}

Result<Message, OpenError> Session::open(std::span<const std::string_view> frames,
                                         ReplayGuard& guard) {
  const auto envelope = verify(frames, guard);
  if (!envelope) return Failure{envelope.error()};
  auto header = unpack(envelope->header, packing());
  auto parent = unpack(envelope->parent_header, packing());
  auto metadata = unpack(envelope->metadata, packing());
  auto content = unpack(envelope->content, packing());
  if (!header || !parent || !metadata || !content) return Failure{OpenError::bad_packing};
  auto parsed = parse_header(*header);
  if (!parsed) return Failure{OpenError::bad_header};

  Message message;
  for (const auto& identity : frames.first(envelope->delimiter)) {
    message.identities.emplace_back(identity);
  }
  message.header = std::move(*parsed);
  message.parent_header = std::move(*parent);
  message.metadata = std::move(*metadata);
  message.content = std::move(*content);
  for (const auto& buffer : frames.subspan(envelope->first_buffer)) {
    message.buffers.emplace_back(buffer);
  }
  return message;
}

Header Session::make_header(std::string_view msg_type, Timestamp now) {
  return Header{options_.session_id + "_" + std::to_string(message_count_++),
                std::string(msg_type),
                options_.session_id,
                options_.username,
                iso8601(now),
                kProtocolVersion};
}

std::vector<std::string> Session::seal(const Message& message) const {
  const std::array<std::string, 4> parts{
      pack(message.header, packing()), pack(message.parent_header, packing()),
      pack(message.metadata, packing()), pack(message.content, packing())};
  const std::array<std::string_view, 4> views{parts[0], parts[1], parts[2], parts[3]};

  std::vector<std::string> frames = message.identities;
  frames.emplace_back(kDelimiter);
  frames.push_back(sign(views));
  frames.insert(frames.end(), parts.begin(), parts.end());
  frames.insert(frames.end(), message.buffers.begin(), message.buffers.end());
  return frames;
}

}  // namespace ddipp::protocol
