#include "protocol/hmac.hpp"

#include <array>
#include <stdexcept>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

namespace ddipp::protocol {
namespace {

struct FreeMac {
  void operator()(EVP_MAC* mac) const { EVP_MAC_free(mac); }
  void operator()(EVP_MAC_CTX* context) const { EVP_MAC_CTX_free(context); }
};

using MacContext = std::unique_ptr<EVP_MAC_CTX, FreeMac>;

std::string to_hex(std::span<const unsigned char> bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const unsigned char byte : bytes) {
    text += digits[byte >> 4U];
    text += digits[byte & 0xFU];
  }
  return text;
}

}  // namespace

struct Hmac::Context {
  MacContext mac;  // begun anew with the key for every message: cheaper than a copy of it
  std::string key;
};

Hmac::Hmac() = default;
Hmac::~Hmac() = default;
Hmac::Hmac(Hmac&&) noexcept = default;
Hmac& Hmac::operator=(Hmac&&) noexcept = default;

Result<Hmac> Hmac::make(std::string_view key, std::string_view scheme) {
  Hmac hmac;
  if (key.empty()) return hmac;
  constexpr std::string_view prefix = "hmac-";
  if (!scheme.starts_with(prefix)) {
    return Failure{"signature scheme '" + std::string(scheme) +
                   "' is not of the form hmac-<digest>"};
  }
  std::string digest(scheme.substr(prefix.size()));
  const std::unique_ptr<EVP_MAC, FreeMac> mac(EVP_MAC_fetch(nullptr, "HMAC", nullptr));
  MacContext context(mac ? EVP_MAC_CTX_new(mac.get()) : nullptr);
  const std::array params{
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest.data(), digest.size()),
      OSSL_PARAM_construct_end()};
  if (!context || EVP_MAC_init(context.get(), reinterpret_cast<const unsigned char*>(key.data()),
                               key.size(), params.data()) != 1) {
    return Failure{"signature scheme '" + std::string(scheme) + "' is not supported by OpenSSL"};
  }
  hmac.context_ = std::make_unique<Context>();
  hmac.context_->mac = std::move(context);
  hmac.context_->key = key;
  return hmac;
}

std::string Hmac::sign(std::span<const std::string_view> parts) const {
  if (!context_) return {};
  EVP_MAC_CTX* context = context_->mac.get();
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  std::size_t length = 0;
  bool ok = EVP_MAC_init(context, reinterpret_cast<const unsigned char*>(context_->key.data()),
                         context_->key.size(), nullptr) == 1;
  for (const std::string_view part : parts) {
    ok = ok && EVP_MAC_update(context, reinterpret_cast<const unsigned char*>(part.data()),
                              part.size()) == 1;
  }
  ok = ok && EVP_MAC_final(context, digest.data(), &length, digest.size()) == 1;
  if (!ok) throw std::runtime_error("OpenSSL could not compute an HMAC");
  return to_hex(std::span(digest).first(length));
}

bool Hmac::verify(std::span<const std::string_view> parts, std::string_view signature) const {
  if (!context_) return true;
  const std::string expected = sign(parts);
  return expected.size() == signature.size() &&
         CRYPTO_memcmp(expected.data(), signature.data(), expected.size()) == 0;
}

}  // namespace ddipp::protocol
