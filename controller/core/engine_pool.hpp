// The engines of the task scheduler, their loads, and which of them gets a task: O(log n) in the
// number of engines, but for the scheme "weighted" and for tasks that only some engines may run,
// which cost O(engines in question). Pure.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "controller/core/scheme.hpp"

namespace ddipp::controller {

class EnginePool {
 public:
  using Order = unsigned long;

  struct Engine {
    std::string uuid;
    std::shared_ptr<const std::string> name;  // the uuid for those that outlive the engine
    int load = 0;
    Order last_used = 0;
    std::set<std::string> running;
    // Tasks that only some engines may run, this one too; change it with hold() and release().
    std::map<Order, std::string> ready;
    std::size_t place = 0;  // in free_, when it has room
    bool retired = false;   // gets nothing more
  };

  // `hwm` is the number of tasks at most on an engine, 0 for no limit.
  EnginePool(Scheme scheme, int hwm, std::function<double()> random)
      : scheme_(scheme), hwm_(hwm), random_(std::move(random)) {}

  Engine& add(const std::string& uuid);
  // Takes it out, with what it ran and was to run.
  Engine remove(const std::string& uuid);
  void retire(const std::string& uuid);
  Engine* find(const std::string& uuid);
  std::unordered_map<std::string, Engine>& engines() { return engines_; }

  void start(Engine& engine, const std::string& task);
  void end(Engine& engine, const std::string& task);
  void hold(Engine& engine, Order order, const std::string& task);
  void release(Engine& engine, Order order);

  bool has_room(const Engine& engine) const {
    return !engine.retired && (hwm_ == 0 || engine.load < hwm_);
  }
  bool any_free() const { return !free_.empty(); }
  // The earliest task that an engine with room holds, null when there is none.
  const std::map<Order, std::string>::value_type* earliest_held() const;

  // One of all engines with room; null when there is none.
  Engine* choose();
  // One of `engines` that has room; null when there is none.
  Engine* choose_of(std::vector<Engine*> engines);

 private:
  void enter(Engine& engine);  // its state is that of an engine with room, or not
  void leave(Engine& engine);
  std::size_t random_place();

  Scheme scheme_;
  int hwm_;
  std::function<double()> random_;
  std::unordered_map<std::string, Engine> engines_;  // nodes don't move
  // Those with room: in any order, by preference, and by the first task that they hold.
  std::vector<Engine*> free_;
  std::set<std::tuple<int, Order, Engine*>> preferred_;
  std::set<std::pair<Order, Engine*>> holding_;
  Order joined_ = 0;
  Order uses_ = Order{1} << 40U;  // engines that were never used come first
};

}  // namespace ddipp::controller
