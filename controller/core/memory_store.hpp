// Keeps records in memory, within limits. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string_view>
#include <unordered_map>

#include "controller/core/store.hpp"

namespace ddipp::controller {

struct MemoryStoreOptions {
  std::size_t record_limit = 1024;
  std::size_t size_limit = std::size_t{1} << 30U;  // bytes, unfinished records included
  double cull_fraction = 0.1;                      // of the limit, dropped when it is exceeded
  std::function<void(std::string)> log = [](const std::string&) {};
};

// Past a limit the records that were submitted first are dropped, finished ones only: what is on
// its way is counted and stays.
class MemoryStore final : public Store {
 public:
  explicit MemoryStore(MemoryStoreOptions options) : options_(std::move(options)) {}

  const char* name() const override { return "memory"; }
  void add(const RecordPtr& record) override;
  void changed(const RecordPtr& record) override;
  StoreResult<std::vector<RecordPtr>> find(const Query& query, bool buffers) override;
  StoreResult<std::monostate> drop(const Query& query) override;
  StoreResult<std::vector<std::string>> history() override;

  std::size_t records() const { return place_.size(); }
  std::size_t bytes() const { return bytes_; }

 private:
  using Order = std::uint64_t;
  struct Entry {
    RecordPtr record;
    std::size_t bytes = 0;
  };
  using Entries = std::map<Order, Entry>;

  std::vector<RecordPtr> in_order(const Query& query) const;
  Entries& holder(Order order);
  void erase(Entries& entries, Entries::iterator entry);
  void cull();

  MemoryStoreOptions options_;
  Entries unfinished_, finished_;
  std::unordered_map<std::string_view, Order> place_;  // by the records' own msg_ids
  std::size_t bytes_ = 0;
  Order next_ = 0;
};

// Sorts msg_ids by the date of submission; records without one keep out.
std::vector<std::string> by_submission(const std::vector<RecordPtr>& records);

}  // namespace ddipp::controller
