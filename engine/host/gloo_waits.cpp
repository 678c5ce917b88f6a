#include "engine/host/gloo_waits.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <dlfcn.h>
#include <link.h>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace ddipp::engine::gloo_waits {
namespace {

// bool UnboundBuffer::waitRecv(int* rank, std::chrono::milliseconds timeout), and waitSend.
using Wait = bool (*)(void* buffer, int* rank, std::chrono::milliseconds timeout);
// void UnboundBuffer::abortWaitRecv(), and abortWaitSend.
using AbortWait = void (*)(void* buffer);

#define DDIPP_GLOO_BUFFER "N4gloo9transport3tcp13UnboundBuffer"
#define DDIPP_MILLISECONDS "NSt6chrono8durationIlSt5ratioILl1ELl1000EEEE"
constexpr const char* table_name = "_ZTV" DDIPP_GLOO_BUFFER "E";

struct Direction {
  const char* wait_name;
  const char* abort_name;
  Wait wait = nullptr;
  AbortWait abort = nullptr;
};

Direction receiving{"_Z" DDIPP_GLOO_BUFFER "8waitRecvEPi" DDIPP_MILLISECONDS,
                    "_Z" DDIPP_GLOO_BUFFER "13abortWaitRecvEv"};
Direction sending{"_Z" DDIPP_GLOO_BUFFER "8waitSendEPi" DDIPP_MILLISECONDS,
                  "_Z" DDIPP_GLOO_BUFFER "13abortWaitSendEv"};
#undef DDIPP_MILLISECONDS
#undef DDIPP_GLOO_BUFFER

struct Waiting {
  void* buffer;
  AbortWait abort;
  bool aborted = false;
  std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
};

class Register {
 public:
  void enter(Waiting& waiting) {
    const std::lock_guard lock(mutex_);
    if (aborted_) throw_aborted();
    waiting_.push_back(&waiting);
  }

  void leave(const Waiting& waiting) {
    const std::lock_guard lock(mutex_);
    std::erase(waiting_, &waiting);
  }

  void allow() {
    const std::lock_guard lock(mutex_);
    aborted_ = false;
  }

  void abort() {
    const std::lock_guard lock(mutex_);
    aborted_ = true;
    for (Waiting* waiting : waiting_) {
      waiting->aborted = true;
      waiting->abort(waiting->buffer);
    }
  }

  std::chrono::steady_clock::duration oldest() {
    const std::lock_guard lock(mutex_);
    // In the order of their beginning, nearly.
    return waiting_.empty() ? std::chrono::steady_clock::duration{}
                            : std::chrono::steady_clock::now() - waiting_.front()->since;
  }

  void note_failure(const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (std::ranges::find(failures_, text) != failures_.end()) return;
    if (failures_.size() == kFailures) failures_.erase(failures_.begin());
    failures_.push_back(text);
  }

  std::vector<std::string> failures() {
    const std::lock_guard lock(mutex_);
    return failures_;
  }

  void forget_failures() {
    const std::lock_guard lock(mutex_);
    failures_.clear();
  }

  [[noreturn]] static void throw_aborted() {
    throw std::runtime_error("the collective was aborted: its group has ended");
  }

 private:
  static constexpr std::size_t kFailures = 16;

  std::mutex mutex_;
  bool aborted_ = false;
  std::vector<std::string> failures_;
  std::vector<Waiting*> waiting_;
};

// Not destroyed at the end of the process: threads of Gloo may be in it still.
Register& all() {
  static auto* const instance = new Register();
  return *instance;
}

bool wait_noted(const Direction& direction, void* buffer, int* rank,
                std::chrono::milliseconds timeout) {
  Waiting waiting{buffer, direction.abort};
  all().enter(waiting);
  const auto leave = [](Waiting* entry) { all().leave(*entry); };
  std::unique_ptr<Waiting, decltype(leave)> entered(&waiting, leave);
  const bool done = direction.wait(buffer, rank, timeout);
  entered.reset();
  if (waiting.aborted) Register::throw_aborted();
  return done;
}

bool wait(const Direction& direction, void* buffer, int* rank, std::chrono::milliseconds timeout) {
  try {
    return wait_noted(direction, buffer, rank, timeout);
  } catch (const std::exception& error) {
    all().note_failure(error.what());
    throw;
  }
}

bool wait_recv(void* buffer, int* rank, std::chrono::milliseconds timeout) {
  return wait(receiving, buffer, rank, timeout);
}

bool wait_send(void* buffer, int* rank, std::chrono::milliseconds timeout) {
  return wait(sending, buffer, rank, timeout);
}

// --- the table ----------------------------------------------------------------------------------

struct CloseLibrary {
  void operator()(void* library) const { ::dlclose(library); }
};

using Library = std::unique_ptr<void, CloseLibrary>;

// By its file, since distributions add a version to the name.
Library find_torch() {
  std::string path;
  ::dl_iterate_phdr(
      [](dl_phdr_info* object, std::size_t, void* data) {
        const std::string_view name(object->dlpi_name);
        const auto file = name.substr(name.rfind('/') + 1);
        if (!file.starts_with("libtorch_cpu.so")) return 0;
        *static_cast<std::string*>(data) = name;
        return 1;
      },
      &path);
  return Library(path.empty() ? nullptr : ::dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD));
}

bool find(void* library, Direction& direction) {
  direction.wait = reinterpret_cast<Wait>(::dlsym(library, direction.wait_name));
  direction.abort = reinterpret_cast<AbortWait>(::dlsym(library, direction.abort_name));
  return direction.wait != nullptr && direction.abort != nullptr;
}

std::span<std::uintptr_t> find_table(void* library) {
  void* const start = ::dlsym(library, table_name);
  Dl_info info;
  void* found = nullptr;
  if (start == nullptr || ::dladdr1(start, &info, &found, RTLD_DL_SYMENT) == 0 ||
      found == nullptr) {
    return {};
  }
  const auto bytes = static_cast<const ElfW(Sym)*>(found)->st_size;
  return {static_cast<std::uintptr_t*>(start), bytes / sizeof(std::uintptr_t)};
}

// A page that the dynamic linker has made read-only once it had filled it (PT_GNU_RELRO).
struct Page {
  std::uintptr_t size = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  std::uintptr_t start;
  bool read_only = false;

  explicit Page(std::uintptr_t address) : start(address / size * size) {
    ::dl_iterate_phdr(
        [](dl_phdr_info* object, std::size_t, void* data) {
          auto& page = *static_cast<Page*>(data);
          const std::span headers(object->dlpi_phdr, object->dlpi_phnum);
          page.read_only |= std::ranges::any_of(headers, [&](const ElfW(Phdr) & header) {
            const auto begin = object->dlpi_addr + header.p_vaddr;
            return header.p_type == PT_GNU_RELRO && page.start >= begin / page.size * page.size &&
                   page.start < (begin + header.p_memsz) / page.size * page.size;
          });
          return 0;
        },
        this);
  }

  bool protect(int access) const {
    return ::mprotect(reinterpret_cast<void*>(start), size, access) == 0;
  }
};

bool replace(std::uintptr_t& entry, Wait function) {
  const Page page(reinterpret_cast<std::uintptr_t>(&entry));
  if (page.read_only && !page.protect(PROT_READ | PROT_WRITE)) return false;
  // Another thread may be about to call it.
  std::atomic_ref(entry).store(reinterpret_cast<std::uintptr_t>(function));
  return !page.read_only || page.protect(PROT_READ);
}

}  // namespace

std::string install() {
  static bool installed = false;
  if (installed) return "";
  const Library library = find_torch();
  if (library == nullptr) return "torch is not loaded";
  if (!find(library.get(), receiving) || !find(library.get(), sending)) {
    return "this torch has no Gloo, or one that is not known";
  }
  const auto table = find_table(library.get());
  const auto entry_of = [&](Wait function) {
    return std::ranges::find(table, reinterpret_cast<std::uintptr_t>(function));
  };
  const auto receive = entry_of(receiving.wait), send = entry_of(sending.wait);
  if (receive == table.end() || send == table.end()) return "this torch's Gloo is not known";
  if (!replace(*receive, wait_recv) || !replace(*send, wait_send)) {
    return "the memory of a library can't be written";
  }
  installed = true;
  return "";
}

void allow() { all().allow(); }

void abort() { all().abort(); }

std::chrono::steady_clock::duration oldest() { return all().oldest(); }

std::vector<std::string> failures() { return all().failures(); }

void forget_failures() { all().forget_failures(); }

}  // namespace ddipp::engine::gloo_waits
