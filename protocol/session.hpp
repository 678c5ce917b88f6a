// Signs outgoing and checks incoming messages of one process.
//
// Incoming frames are verified before any of them is parsed: delimiter, number of frames, length of
// the signature, HMAC over the raw bytes, replay guard, and only then JSON or msgpack.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/hmac.hpp"
#include "protocol/iso8601.hpp"
#include "protocol/message.hpp"
#include "protocol/replay_guard.hpp"
#include "protocol/result.hpp"

namespace ddipp::protocol {

inline constexpr std::string_view kDelimiter = "<IDS|MSG>";

enum class OpenError {
  no_delimiter,
  too_few_frames,
  wrong_signature,
  replayed,
  bad_packing,
  bad_header,
};

// One line for a log.
std::string_view describe(OpenError error);

// Where the parts of a message lie among its frames; views into the caller's memory.
struct Envelope {
  std::size_t delimiter = 0;  // index of the delimiter = number of identities
  std::string_view signature;
  std::string_view header;
  std::string_view parent_header;
  std::string_view metadata;
  std::string_view content;
  std::size_t first_buffer = 0;  // index of the first buffer frame

  std::vector<std::string_view> signed_parts() const {
    return {header, parent_header, metadata, content};
  }
};

// Finds the parts without checking the signature.
Result<Envelope, OpenError> locate(std::span<const std::string_view> frames);

// Random version 4 UUID from 16 random bytes.
std::string make_uuid(std::span<const std::uint8_t, 16> random);

struct SessionOptions {
  std::string key;  // "" switches signing off
  std::string signature_scheme = "hmac-sha256";
  Packing packing = Packing::json;
  std::string session_id;
  std::string username = "ddipp";
};

// One thread at a time; no clock of its own.
class Session {
 public:
  static Result<Session> make(SessionOptions options);

  const std::string& id() const { return options_.session_id; }
  Packing packing() const { return options_.packing; }
  bool signs() const { return hmac_.enabled(); }

  // Checks signature and replay; parses nothing.
  Result<Envelope, OpenError> verify(std::span<const std::string_view> frames);

  // verify(), then parses all parts and copies the buffers.
  Result<Message, OpenError> open(std::span<const std::string_view> frames);

  Header make_header(std::string_view msg_type, Timestamp now);

  std::string sign(std::span<const std::string_view> parts) const { return hmac_.sign(parts); }

  // All frames of a message, identities first.
  std::vector<std::string> seal(const Message& message) const;

 private:
  Session(SessionOptions options, Hmac hmac);

  SessionOptions options_;
  Hmac hmac_;
  ReplayGuard replay_guard_;
  std::uint64_t message_count_ = 0;
};

}  // namespace ddipp::protocol
