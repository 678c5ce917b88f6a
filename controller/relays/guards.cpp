#include "controller/relays/guards.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <stdexcept>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/net/unique_fd.hpp"

namespace ddipp::controller {
namespace {

using protocol::ReplayGuard;

constexpr std::size_t kHeader = 2;  // whose file it is, and the last epoch
constexpr std::size_t kWords = ReplayGuard::words(ReplayGuard::kLimit);
constexpr std::size_t kBytes = (kHeader + kGuards * kWords) * sizeof(std::uint64_t);

[[noreturn]] void fail(const std::filesystem::path& file) {
  throw std::runtime_error("can't keep what came by in " + file.string() + ": " +
                           std::strerror(errno));
}

// The blocks are reserved: memory that is written through to a full disk would end the process.
std::uint64_t* map(const std::filesystem::path& file) {
  const net::UniqueFd fd(
      ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR));
  if (fd.get() < 0) fail(file);
  ::fchmod(fd.get(), S_IRUSR | S_IWUSR);
  if (::ftruncate(fd.get(), static_cast<off_t>(kBytes)) != 0) fail(file);
  const int reserved = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(kBytes));
  if (reserved != 0 && reserved != EOPNOTSUPP && reserved != EINVAL) {
    errno = reserved;
    fail(file);
  }
  void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) fail(file);
  return static_cast<std::uint64_t*>(memory);
}

std::uint64_t owner(const protocol::Session& session) {
  const std::uint64_t mark =
      std::hash<std::string>()(session.code("ddipp guard", {}));  // by the key
  return mark == 0 ? 1 : mark;
}

std::uint64_t nanoseconds() {
  return static_cast<std::uint64_t>(
      std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count());
}

}  // namespace

void Guards::Unmap::operator()(std::uint64_t* memory) const { ::munmap(memory, kBytes); }

Guards::Guards(const std::filesystem::path& file, const protocol::Session& session)
    : epoch_(nanoseconds()) {
  std::span<std::uint64_t> words;
  if (!file.empty()) {
    memory_.reset(map(file));
    words = {memory_.get(), kBytes / sizeof(std::uint64_t)};
    if (words[0] != owner(session)) {
      std::memset(memory_.get(), 0, kBytes);
      words[0] = owner(session);
    }
    epoch_ = words[1] = std::max(epoch_, words[1] + 1);
  }
  for (std::size_t i = 0; i < kGuards; ++i) {
    const auto part = words.empty() ? words : words.subspan(kHeader + i * kWords, kWords);
    guards_[i] = std::make_unique<ReplayGuard>(ReplayGuard::kLimit, part);
  }
}

}  // namespace ddipp::controller
