// The connections of this process, whoever has made them.
#pragma once

#include <cstddef>
#include <set>

namespace ddipp::engine {

// Shuts down every TCP connection of the process but those from or to these ports; returns how
// many. It frees a thread that waits for a peer in a library that nobody can tell to stop: a
// rendezvous, the collectives of JAX. What listens is left alone, since Gloo ends the process when
// its listener fails.
std::size_t shut_down_connections(const std::set<int>& kept_ports);

}  // namespace ddipp::engine
