#include "controller/core/memory_store.hpp"

#include <algorithm>

namespace ddipp::controller {

void MemoryStore::add(const RecordPtr& record) {
  if (place_.contains(record->msg_id)) return;
  const Order order = next_++;
  place_[record->msg_id] = order;
  const std::size_t bytes = record->size();
  Entries& entries = record->finished() ? finished_ : unfinished_;
  entries.emplace_hint(entries.end(), order, Entry{record, bytes});
  bytes_ += bytes;
  cull();
}

void MemoryStore::changed(const RecordPtr& record) {
  const auto place = place_.find(record->msg_id);
  if (place == place_.end()) return;
  const Order order = place->second;
  auto node = holder(order).extract(order);
  Entry& entry = node.mapped();
  if (entry.record != record) {  // the key is in the record that goes
    place_.erase(place);
    place_[record->msg_id] = order;
  }
  const std::size_t bytes = record->size();
  bytes_ += bytes - entry.bytes;
  entry = Entry{record, bytes};
  (record->finished() ? finished_ : unfinished_).insert(std::move(node));
  cull();
}

MemoryStore::Entries& MemoryStore::holder(Order order) {
  return unfinished_.contains(order) ? unfinished_ : finished_;
}

void MemoryStore::erase(Entries& entries, Entries::iterator entry) {
  bytes_ -= entry->second.bytes;
  place_.erase(entry->second.record->msg_id);
  entries.erase(entry);
}

void MemoryStore::cull() {
  if (place_.size() <= options_.record_limit && bytes_ <= options_.size_limit) return;
  const double keep = 1 - options_.cull_fraction;
  const auto records = static_cast<std::size_t>(keep * static_cast<double>(options_.record_limit));
  const auto bytes = static_cast<std::size_t>(keep * static_cast<double>(options_.size_limit));
  const bool too_many = place_.size() > options_.record_limit;
  const bool too_big = bytes_ > options_.size_limit;
  std::size_t dropped = 0;
  while (!finished_.empty() &&
         ((too_many && place_.size() > records) || (too_big && bytes_ > bytes))) {
    erase(finished_, finished_.begin());
    ++dropped;
  }
  if (dropped > 0) {
    options_.log("dropped the " + std::to_string(dropped) + " oldest results: the store is full");
  }
}

std::vector<RecordPtr> MemoryStore::in_order(const Query& query) const {
  std::vector<std::pair<Order, RecordPtr>> found;
  for (const Entries* entries : {&finished_, &unfinished_}) {
    for (const auto& [order, entry] : *entries) {
      if (matches(query, *entry.record)) found.emplace_back(order, entry.record);
    }
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<RecordPtr> records;
  records.reserve(found.size());
  for (auto& [order, record] : found) records.push_back(std::move(record));
  return records;
}

StoreResult<std::vector<RecordPtr>> MemoryStore::find(const Query& query, bool /*buffers*/) {
  // The common question is for a record by its id.
  if (query.size() == 1 && query[0].key == "msg_id" && query[0].op == Operator::eq &&
      query[0].value.is_string()) {
    const auto place = place_.find(query[0].value.get_ref<const std::string&>());
    if (place == place_.end()) return std::vector<RecordPtr>{};
    return std::vector<RecordPtr>{holder(place->second).at(place->second).record};
  }
  return in_order(query);
}

StoreResult<std::monostate> MemoryStore::drop(const Query& query) {
  for (const auto& record : in_order(query)) {
    const Order order = place_.at(record->msg_id);
    Entries& entries = holder(order);
    erase(entries, entries.find(order));
  }
  return std::monostate();
}

StoreResult<std::vector<std::string>> MemoryStore::history() { return by_submission(in_order({})); }

std::vector<std::string> by_submission(const std::vector<RecordPtr>& records) {
  std::vector<std::pair<protocol::Timestamp, const std::string*>> dated;
  for (const auto& record : records) {
    if (const auto date = record->submitted()) dated.emplace_back(*date, &record->msg_id);
  }
  std::stable_sort(dated.begin(), dated.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> ids;
  ids.reserve(dated.size());
  for (const auto& [date, id] : dated) ids.push_back(*id);
  return ids;
}

}  // namespace ddipp::controller
