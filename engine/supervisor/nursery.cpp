#include "engine/supervisor/nursery.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <system_error>
#include <unistd.h>

#include "engine/supervisor/supervisor.hpp"

namespace ddipp::engine {

using namespace std::chrono_literals;

namespace {

// An import of torch from a cold network drive has been seen to take half a minute.
constexpr auto kPatience = 120s;
constexpr int kLookMs = 100;
constexpr std::size_t kLongestAnswer = 4096;

void log_line(const std::string& text) { std::fprintf(stderr, "dipengine: %s\n", text.c_str()); }

std::system_error failure(const char* what) {
  return std::system_error(errno, std::generic_category(), what);
}

net::UniqueFd make_socket() {
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) throw failure("socket");
  return net::UniqueFd(fd);
}

sockaddr_un address_of(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string text = path.string();
  if (text.size() >= sizeof address.sun_path) {
    throw std::system_error(ENAMETOOLONG, std::generic_category(), text);
  }
  std::memcpy(address.sun_path, text.c_str(), text.size());
  return address;
}

// Any size of request fits, which a message of a socket has not.
net::UniqueFd as_file(const std::string& text) {
  net::UniqueFd file(::memfd_create("dipengine-request", MFD_CLOEXEC));
  if (file.get() < 0) throw failure("memfd_create");
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(file.get(), text.data() + done, text.size() - done);
    if (written < 0) throw failure("write");
    done += static_cast<std::size_t>(written);
  }
  return file;
}

void send_descriptors(int socket, const std::vector<int>& descriptors) {
  char word[] = "start";
  iovec part{word, sizeof word - 1};
  std::vector<char> control(CMSG_SPACE(sizeof(int) * descriptors.size()));
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
  std::memcpy(CMSG_DATA(header), descriptors.data(), sizeof(int) * descriptors.size());
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0) throw failure("sendmsg");
}

bool told_to_end() {
  sigset_t pending;
  if (::sigpending(&pending) != 0) return false;
  for (const int number : {SIGTERM, SIGHUP, SIGQUIT, SIGINT}) {
    if (sigismember(&pending, number) == 1) return true;
  }
  return false;
}

}  // namespace

Nursery::Nursery(std::filesystem::path socket, std::function<std::string(int)> run,
                 std::function<NurseryRequest(const WorkerStart&, const WorkerSide&)> request)
    : socket_(std::move(socket)), run_(std::move(run)), request_(std::move(request)) {}

std::optional<pid_t> Nursery::start(const WorkerStart& start, const WorkerSide& side) {
  try {
    return ask(start, side);
  } catch (const std::system_error& error) {
    let_go();
    log_line("starts Python without the nursery: " + std::string(error.what()));
    return std::nullopt;
  }
}

std::optional<pid_t> Nursery::ask(const WorkerStart& start, const WorkerSide& side) {
  worker_.reset();
  worker_alone_ = false;
  // One whose packages have changed on disk lets go, and another one is started.
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (connection_.get() < 0) reach();
    NurseryRequest request = request_(start, side);
    const net::UniqueFd content = as_file(request.content.dump());
    request.descriptors.insert(request.descriptors.begin(), content.get());
    send_descriptors(connection_.get(), request.descriptors);
    auto answer = wait_for_answer();
    if (!answer) break;
    if (answer->content.contains("pid")) {
      worker_ = std::move(answer->process);
      announce_by_signal();
      return answer->content.at("pid").get<pid_t>();
    }
    log_line("the nursery: " + answer->content.value("refused", std::string("no answer")));
    if (!answer->content.contains("stale")) break;
    let_go();
  }
  let_go();
  return std::nullopt;
}

// --- connection -------------------------------------------------------------------------------

void Nursery::reach() {
  if (connect()) return;
  const std::string lock = (socket_.parent_path() / "nursery.lock").string();
  const net::UniqueFd file(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (file.get() < 0 || ::flock(file.get(), LOCK_EX) != 0) throw failure(lock.c_str());
  if (connect()) return;  // another engine was faster
  listen_and_run();
  if (!connect()) throw failure("connect");
}

bool Nursery::connect() {
  net::UniqueFd fd = make_socket();
  const sockaddr_un address = address_of(socket_);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return false;
  }
  connection_ = std::move(fd);
  return true;
}

// It listens before it runs, so nobody has to wait for it to be there.
void Nursery::listen_and_run() {
  net::UniqueFd listener = make_socket();
  const sockaddr_un address = address_of(socket_);
  ::unlink(socket_.c_str());
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::chmod(socket_.c_str(), 0600) != 0 || ::listen(listener.get(), 1024) != 0) {
    throw failure(socket_.c_str());
  }
  const pid_t child = ::fork();
  if (child < 0) throw failure("fork");
  if (child > 0) return;
  ::setsid();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (nothing >= 0) ::dup2(nothing, 0);
  ::fcntl(listener.get(), F_SETFD, 0);
  log_line(run_(listener.get()));
  ::_exit(1);
}

void Nursery::announce_by_signal() {
  ::fcntl(connection_.get(), F_SETOWN, ::getpid());
  ::fcntl(connection_.get(), F_SETFL, ::fcntl(connection_.get(), F_GETFL) | O_ASYNC);
}

void Nursery::let_go() { connection_.reset(); }

// --- answers ----------------------------------------------------------------------------------

std::optional<Nursery::Answer> Nursery::wait_for_answer() {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline && !told_to_end()) {
    pollfd one{connection_.get(), POLLIN, 0};
    if (::poll(&one, 1, kLookMs) <= 0) continue;
    auto answer = receive();
    // What is said of an earlier worker, whose end was known by another way.
    if (answer && answer->content.contains("ended")) continue;
    return answer;
  }
  return std::nullopt;
}

std::optional<Nursery::Answer> Nursery::receive() {
  std::array<char, kLongestAnswer> text{};
  std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec part{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(connection_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got <= 0) return std::nullopt;
  Answer answer;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
    answer.process.reset(fd);
  }
  answer.content = protocol::Json::parse(text.data(), text.data() + got, nullptr, false);
  if (!answer.content.is_object()) return std::nullopt;
  return answer;
}

std::optional<WorkerEnd> Nursery::ended() {
  if (worker_.get() < 0) return std::nullopt;
  if (connection_.get() >= 0) {
    pollfd one{connection_.get(), POLLIN, 0};
    if (::poll(&one, 1, 0) <= 0) return std::nullopt;
    if (const auto answer = receive()) {
      if (!answer->content.contains("ended")) return std::nullopt;
      worker_.reset();
      WorkerEnd end;
      end.status = answer->content.at("ended").get<int>();
      end.peak_memory_kib = answer->content.value("peak_memory_kib", 0L);
      return end;
    }
    let_go();
    worker_alone_ = true;
  }
  pollfd process{worker_.get(), POLLIN, 0};
  if (::poll(&process, 1, 0) <= 0) return std::nullopt;
  worker_.reset();
  worker_alone_ = false;
  WorkerEnd end;
  end.known = false;
  end.status = SIGKILL;  // as a failure for those who ask
  return end;
}

}  // namespace ddipp::engine
