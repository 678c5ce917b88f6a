#include "controller/core/engine_pool.hpp"

#include <algorithm>
#include <utility>

namespace ddipp::controller {

EnginePool::Engine& EnginePool::add(const std::string& uuid) {
  const auto [found, is_new] = engines_.try_emplace(uuid);
  if (is_new) {
    found->second.uuid = uuid;
    found->second.name = std::make_shared<const std::string>(uuid);
    found->second.last_used = ++joined_;
    enter(found->second);
  }
  return found->second;
}

EnginePool::Engine EnginePool::remove(const std::string& uuid) {
  leave(engines_.at(uuid));
  return std::move(engines_.extract(uuid).mapped());
}

void EnginePool::retire(const std::string& uuid) {
  const auto found = engines_.find(uuid);
  if (found == engines_.end()) return;
  leave(found->second);
  found->second.retired = true;
}

EnginePool::Engine* EnginePool::find(const std::string& uuid) {
  const auto found = engines_.find(uuid);
  return found == engines_.end() ? nullptr : &found->second;
}

void EnginePool::enter(Engine& engine) {
  if (!has_room(engine)) return;
  engine.place = free_.size();
  free_.push_back(&engine);
  const int load = scheme_ == Scheme::leastload ? engine.load : 0;
  preferred_.insert({load, engine.last_used, &engine});
  if (!engine.ready.empty()) holding_.insert({engine.ready.begin()->first, &engine});
}

void EnginePool::leave(Engine& engine) {
  if (!has_room(engine)) return;
  free_.back()->place = engine.place;
  free_[engine.place] = free_.back();
  free_.pop_back();
  const int load = scheme_ == Scheme::leastload ? engine.load : 0;
  preferred_.erase({load, engine.last_used, &engine});
  if (!engine.ready.empty()) holding_.erase({engine.ready.begin()->first, &engine});
}

void EnginePool::start(Engine& engine, const std::string& task) {
  leave(engine);
  ++engine.load;
  engine.last_used = ++uses_;
  engine.running.insert(task);
  enter(engine);
}

void EnginePool::end(Engine& engine, const std::string& task) {
  leave(engine);
  --engine.load;
  engine.running.erase(task);
  enter(engine);
}

void EnginePool::hold(Engine& engine, Order order, const std::string& task) {
  leave(engine);
  engine.ready[order] = task;
  enter(engine);
}

void EnginePool::release(Engine& engine, Order order) {
  if (!engine.ready.contains(order)) return;
  leave(engine);
  engine.ready.erase(order);
  enter(engine);
}

const std::map<EnginePool::Order, std::string>::value_type* EnginePool::earliest_held() const {
  return holding_.empty() ? nullptr : &*holding_.begin()->second->ready.begin();
}

std::size_t EnginePool::random_place() {
  return std::min(static_cast<std::size_t>(random_() * static_cast<double>(free_.size())),
                  free_.size() - 1);
}

EnginePool::Engine* EnginePool::choose() {
  if (free_.empty()) return nullptr;
  switch (scheme_) {
    case Scheme::leastload:
    case Scheme::lru:
      return std::get<Engine*>(*preferred_.begin());
    case Scheme::plainrandom:
      return free_[random_place()];
    case Scheme::twobin: {
      Engine* one = free_[random_place()];
      Engine* other = free_[random_place()];
      return one->last_used < other->last_used ? one : other;
    }
    case Scheme::weighted:
      break;
  }
  return choose_of(free_);
}

EnginePool::Engine* EnginePool::choose_of(std::vector<Engine*> engines) {
  std::erase_if(engines, [this](const Engine* engine) { return !has_room(*engine); });
  if (engines.empty()) return nullptr;
  std::sort(engines.begin(), engines.end(),
            [](const Engine* a, const Engine* b) { return a->last_used < b->last_used; });
  std::vector<int> loads;
  loads.reserve(engines.size());
  for (const Engine* engine : engines) loads.push_back(engine->load);
  const double random1 = random_();
  const double random2 = random_();
  return engines[controller::choose(scheme_, loads, random1, random2)];
}

}  // namespace ddipp::controller
