#include "controller/core/scheme.hpp"

#include <algorithm>
#include <vector>

namespace ddipp::controller {
namespace {

std::size_t random_index(std::size_t count, double random) {
  return std::min(static_cast<std::size_t>(random * static_cast<double>(count)), count - 1);
}

// An index drawn with weights that fall with the load.
std::size_t weighted_index(std::span<const int> loads, double random) {
  std::vector<double> sums;
  double sum = 0;
  for (const int load : loads) sums.push_back(sum += 1.0 / (1e-6 + load));
  const auto found = std::upper_bound(sums.begin(), sums.end(), random * sum);
  return std::min(static_cast<std::size_t>(found - sums.begin()), loads.size() - 1);
}

}  // namespace

std::optional<Scheme> scheme_from_name(std::string_view name) {
  if (name == "leastload") return Scheme::leastload;
  if (name == "lru") return Scheme::lru;
  if (name == "plainrandom") return Scheme::plainrandom;
  if (name == "weighted") return Scheme::weighted;
  if (name == "twobin") return Scheme::twobin;
  return std::nullopt;
}

std::size_t choose(Scheme scheme, std::span<const int> loads, double random1, double random2) {
  switch (scheme) {
    case Scheme::leastload:
      return static_cast<std::size_t>(std::min_element(loads.begin(), loads.end()) - loads.begin());
    case Scheme::lru:
      return 0;
    case Scheme::plainrandom:
      return random_index(loads.size(), random1);
    case Scheme::weighted: {  // the less loaded of two weighted picks
      const auto first = weighted_index(loads, random1);
      const auto second = weighted_index(loads, random2);
      return loads[second] < loads[first] ? second : first;
    }
    case Scheme::twobin:  // the less recently used of two random picks
      return std::min(random_index(loads.size(), random1), random_index(loads.size(), random2));
  }
  return 0;
}

}  // namespace ddipp::controller
