// HMAC over the frames of a message, as Jupyter signs them: the hexadecimal digest of header,
// parent header, metadata and content, in this order (Jupyter messaging, "wire protocol").
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "protocol/result.hpp"

namespace ddipp::protocol {

// One thread at a time. A default-constructed or empty-keyed Hmac signs with the empty string and
// accepts everything: message signing is off, as with CURVE.
class Hmac {
 public:
  Hmac();
  ~Hmac();
  Hmac(Hmac&&) noexcept;
  Hmac& operator=(Hmac&&) noexcept;

  // `scheme` is "hmac-<digest>" with a digest that OpenSSL knows, usually "hmac-sha256".
  static Result<Hmac> make(std::string_view key, std::string_view scheme);

  bool enabled() const { return context_ != nullptr; }

  // Lower-case hexadecimal digest, or "" when signing is off.
  std::string sign(std::span<const std::string_view> parts) const;

  // Takes the same time whatever the first wrong character is.
  bool verify(std::span<const std::string_view> parts, std::string_view signature) const;

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace ddipp::protocol
