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

// Where the parts of a message lie among its frames; views into the caller's memory. Nobody but a
// Session makes one, after it has checked the signature: what reads a part takes a Verified, so
// that nothing of a stranger's is parsed.
class Verified {
 public:
  std::size_t delimiter = 0;  // index of the delimiter = number of identities
  std::string_view signature;
  std::string_view header;
  std::string_view parent_header;
  std::string_view metadata;
  std::string_view content;
  std::size_t first_buffer = 0;  // index of the first buffer frame
  std::string msg_id;            // of the header, "" when it has none
  std::string msg_type;

 private:
  friend class Session;
  Verified() = default;
};

// Random version 4 UUID from 16 random bytes.
std::string make_uuid(std::span<const std::uint8_t, 16> random);

struct SessionOptions {
  std::string key;  // "" switches signing off
  std::string signature_scheme = "hmac-sha256";
  Packing packing = Packing::json;
  std::string session_id;
  std::string username = "username";  // that of jupyter's sessions where there is no $USER
};

// One thread at a time; no clock of its own.
class Session {
 public:
  static Result<Session> make(SessionOptions options);

  const std::string& id() const { return options_.session_id; }
  Packing packing() const { return options_.packing; }
  bool signs() const { return hmac_.enabled(); }

  // Checks signature and replay, and only then reads who the message says it is.
  Result<Verified, OpenError> verify(std::span<const std::string_view> frames) {
    return verify(frames, replay_guard_);
  }
  // By the guard of the socket that it came by.
  Result<Verified, OpenError> verify(std::span<const std::string_view> frames, ReplayGuard& guard);

  // Of a message that this process has verified before, or made.
  Result<Verified, OpenError> reopen(std::span<const std::string_view> frames) const;

  // verify(), then parses all parts and copies the buffers.
  Result<Message, OpenError> open(std::span<const std::string_view> frames) {
    return open(frames, replay_guard_);
  }
  Result<Message, OpenError> open(std::span<const std::string_view> frames, ReplayGuard& guard);

  // From now on what this session signs itself is refused when it comes back: a relay signs
  // messages that it makes of others. `guard` must outlive the session.
  void remember_own(ReplayGuard& guard) { own_ = &guard; }

  Header make_header(std::string_view msg_type, Timestamp now);

  // Of header, parent header, metadata and content.
  std::string sign(std::span<const std::string_view> parts) const;

  // For what is no message; `purpose` keeps the uses apart, and from messages.
  std::string code(std::string_view purpose, std::span<const std::string_view> parts) const;

  // All frames of a message, identities first.
  std::vector<std::string> seal(const Message& message) const;

 private:
  Session(SessionOptions options, Hmac hmac);

  static Result<Verified, OpenError> locate(std::span<const std::string_view> frames);
  void read_ids(Verified& parts) const;

  SessionOptions options_;
  Hmac hmac_;
  ReplayGuard replay_guard_;
  ReplayGuard* own_ = nullptr;
  std::uint64_t message_count_ = 0;
};

}  // namespace ddipp::protocol
