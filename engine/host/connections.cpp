#include "engine/host/connections.hpp"

#include <charconv>
#include <filesystem>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <system_error>

namespace ddipp::engine {
namespace {

int option(int fd, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

using GetName = int (*)(int, sockaddr*, socklen_t*);

// Of one end of a connection; 0 for none.
int port(int fd, GetName get_name) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (get_name(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  // Both families have it at the same place.
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

bool is_tcp_connection(int fd) {
  const int domain = option(fd, SO_DOMAIN);
  return (domain == AF_INET || domain == AF_INET6) && option(fd, SO_TYPE) == SOCK_STREAM &&
         option(fd, SO_ACCEPTCONN) == 0;
}

}  // namespace

std::size_t shut_down_connections(const std::set<int>& kept_ports) {
  std::size_t count = 0;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", none)) {
    const std::string name = entry.path().filename();
    int fd = -1;
    std::from_chars(name.data(), name.data() + name.size(), fd);
    if (!is_tcp_connection(fd)) continue;
    if (kept_ports.contains(port(fd, ::getsockname))) continue;
    if (kept_ports.contains(port(fd, ::getpeername))) continue;
    if (::shutdown(fd, SHUT_RDWR) == 0) ++count;
  }
  return count;
}

}  // namespace ddipp::engine
