#include "engine/supervisor/ssh_tunnel.hpp"

#include <arpa/inet.h>
#include <chrono>
#include <csignal>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "engine/core/ssh_command.hpp"
#include "protocol/net/unique_fd.hpp"

namespace ddipp::engine {
namespace {

using namespace std::chrono_literals;

constexpr auto kPatience = 30s;

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return address;
}

// All held open together, so that they differ.
std::vector<int> free_ports(std::size_t count) {
  std::vector<net::UniqueFd> sockets;
  std::vector<int> ports;
  for (std::size_t i = 0; i < count; ++i) {
    auto& socket = sockets.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(socket.get(), generic, size) != 0 ||
        ::getsockname(socket.get(), generic, &size) != 0) {
      return {};
    }
    ports.push_back(ntohs(address.sin_port));
  }
  return ports;
}

bool accepts(int port) {
  const net::UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

pid_t spawn(const std::vector<std::string>& arguments) {
  std::vector<char*> pointers;
  for (const auto& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::setpgid(0, 0);  // a terminal's Ctrl-C is for Python
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execvp(pointers[0], pointers.data());
  ::_exit(127);
}

bool has_ended(pid_t process) { return ::waitpid(process, nullptr, WNOHANG) != 0; }

}  // namespace

Result<protocol::Json> SshTunnel::open(const protocol::Json& connection, const std::string& server,
                                       const std::string& key) {
  if (ssh_ > 0 && remote_ == connection && !has_ended(ssh_)) return local_;
  const auto ports = ports_of(connection);
  if (!ports) return Failure{ports.error()};
  const auto local_ports = free_ports(ports->size());
  if (local_ports.empty()) return Failure{std::string("no local port is free for ssh")};
  std::vector<Forward> forwards;
  for (std::size_t i = 0; i < ports->size(); ++i) forwards.push_back({local_ports[i], (*ports)[i]});

  ssh_ = spawn(ssh_arguments(server, key, connection, forwards));
  if (ssh_ < 0) return Failure{std::string("ssh can't be started")};
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!accepts(local_ports.front())) {
    if (has_ended(ssh_)) {
      return Failure{"ssh to " + server + " failed; is it installed, and does 'ssh " + server +
                     " true' work without a question?"};
    }
    if (std::chrono::steady_clock::now() > deadline) {
      ::kill(ssh_, SIGTERM);
      return Failure{"ssh to " + server + " did not open the tunnel within 30 s"};
    }
    ::usleep(20'000);
  }
  remote_ = connection;
  local_ = through(connection, forwards);
  return local_;
}

}  // namespace ddipp::engine
