// Which of several free engines gets a task. Pure: random numbers come in as arguments.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

namespace ddipp::controller {

enum class Scheme { leastload, lru, plainrandom, weighted, twobin };

std::optional<Scheme> scheme_from_name(std::string_view name);

// `loads` are the numbers of outstanding tasks of the candidates, least recently used first and not
// empty; `random1` and `random2` are uniform in [0, 1). Returns an index into `loads`.
std::size_t choose(Scheme scheme, std::span<const int> loads, double random1, double random2);

}  // namespace ddipp::controller
