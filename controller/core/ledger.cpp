#include "controller/core/ledger.hpp"

#include <utility>

namespace ddipp::controller {
namespace {

std::vector<std::string> ids(const std::list<RecordPtr>& list) {
  std::vector<std::string> result;
  result.reserve(list.size());
  for (const auto& record : list) result.push_back(record->msg_id);
  return result;
}

constexpr std::size_t kOutputLimit = std::size_t{16} << 20U;  // bytes of a stream that are kept
constexpr std::size_t kRecordBytes = 4096;  // what a small request takes in all, measured
constexpr std::string_view kCut = "\n[the rest of the output was not kept]\n";

void append(std::string& output, std::string_view text) {
  if (output.size() >= kOutputLimit) return;
  output += text.substr(0, kOutputLimit - output.size());
  if (output.size() >= kOutputLimit) output += kCut;
}

}  // namespace

Ledger::List& Ledger::list_for(const Record& record) {
  if (record.engine.empty()) return unassigned_;
  Engine& engine = engines_[record.engine];
  return record.queue == Queue::task ? engine.tasks : engine.queue;
}

std::size_t Ledger::bytes_of(const Record& record) {
  const Parts& parts = record.request;
  const std::size_t shared = parts.header.size() + parts.metadata.size() + parts.content.size();
  return kRecordBytes + (record.queue == Queue::broadcast ? shared : parts.size());
}

void Ledger::submit(const RecordPtr& record) {
  if (where_.contains(record->msg_id)) return;
  if (given_up_.erase(record->msg_id) > 0) std::erase(given_up_order_, record->msg_id);
  List& list = list_for(*record);
  const std::size_t bytes = bytes_of(*record);
  pending_bytes_ += bytes;
  where_[record->msg_id] = Place{&list, list.insert(list.end(), record), bytes};
  store_.add(record);
}

void Ledger::assign(const std::string& msg_id, const std::string& engine) {
  const auto found = where_.find(msg_id);
  if (found == where_.end()) return;
  Place& place = found->second;
  Record& record = **place.at;
  if (record.engine == engine) return;
  record.engine = engine;
  List& list = list_for(record);
  list.splice(list.end(), *place.list, place.at);
  place.list = &list;
}

bool Ledger::finish(const std::string& msg_id, Parts result, protocol::Timestamp received) {
  if (given_up_.contains(msg_id)) return false;
  const RecordPtr record = find_anywhere(msg_id);
  if (!record) return true;
  if (record->finished()) return false;
  take_out(msg_id);
  record->result = std::move(result);
  record->received = received;
  store_.changed(record);
  if (observer_) observer_(*record);
  return true;
}

void Ledger::give_up(const std::string& msg_id, Parts result, protocol::Timestamp received) {
  if (!finish(msg_id, std::move(result), received)) return;
  given_up_.insert(msg_id);
  given_up_order_.push_back(msg_id);
  if (given_up_order_.size() <= kGivenUp) return;
  given_up_.erase(given_up_order_.front());
  given_up_order_.pop_front();
}

// From the list that it is in.
void Ledger::take_out(const std::string& msg_id) {
  const auto found = where_.find(msg_id);
  if (found == where_.end()) return;
  const RecordPtr record = *found->second.at;
  pending_bytes_ -= found->second.bytes;
  found->second.list->erase(found->second.at);
  where_.erase(found);  // whose key is in the record
  const auto engine = engines_.find(record->engine);
  if (engine == engines_.end()) return;
  ++engine->second.completed_count;
  engine->second.completed.push_back(msg_id);
  if (engine->second.completed.size() > kRemembered) engine->second.completed.pop_front();
}

void Ledger::output(const std::string& msg_id, OutputKind kind, std::string_view text) {
  const RecordPtr record = find_anywhere(msg_id);
  if (!record) return;
  switch (kind) {
    case OutputKind::output:
      append(record->output, text);
      break;
    case OutputKind::error_output:
      append(record->error_output, text);
      break;
    case OutputKind::execute_input:
      record->execute_input = text;
      break;
    case OutputKind::execute_result:
      record->execute_result = text;
      break;
    case OutputKind::error:
      record->error = text;
      break;
  }
  // The channels are not ordered among each other: the last output may come after the reply.
  if (record->finished()) store_.changed(record);
}

RecordPtr Ledger::find_anywhere(const std::string& msg_id) {
  if (auto record = find(msg_id)) return record;
  const auto stored = store_.find({{"msg_id", Operator::eq, msg_id}}, true);
  return stored && !stored->empty() ? stored->front() : nullptr;
}

RecordPtr Ledger::find(const std::string& msg_id) const {
  const auto found = where_.find(msg_id);
  return found == where_.end() ? nullptr : *found->second.at;
}

std::vector<RecordPtr> Ledger::outstanding() const {
  std::vector<RecordPtr> all(unassigned_.begin(), unassigned_.end());
  for (const auto& [uuid, engine] : engines_) {
    all.insert(all.end(), engine.queue.begin(), engine.queue.end());
    all.insert(all.end(), engine.tasks.begin(), engine.tasks.end());
  }
  return all;
}

std::vector<RecordPtr> Ledger::outstanding_on(const std::string& engine) const {
  const auto found = engines_.find(engine);
  if (found == engines_.end()) return {};
  return {found->second.queue.begin(), found->second.queue.end()};
}

Ledger::EngineView Ledger::view(const std::string& engine) const {
  const auto found = engines_.find(engine);
  if (found == engines_.end()) return {};
  const Engine& state = found->second;
  return {ids(state.queue),
          ids(state.tasks),
          {state.completed.begin(), state.completed.end()},
          state.completed_count};
}

std::size_t Ledger::load(const std::string& engine) const {
  const auto found = engines_.find(engine);
  return found == engines_.end() ? 0 : found->second.queue.size() + found->second.tasks.size();
}

std::vector<std::string> Ledger::unassigned() const { return ids(unassigned_); }

// What is still in its lists stays known by its id, without an engine.
void Ledger::forget_engine(const std::string& uuid) {
  const auto found = engines_.find(uuid);
  if (found == engines_.end()) return;
  for (List* list : {&found->second.queue, &found->second.tasks}) {
    for (const auto& record : *list) {
      where_.at(record->msg_id).list = &unassigned_;
      record->engine.clear();
    }
    unassigned_.splice(unassigned_.end(), *list);
  }
  engines_.erase(found);
}

}  // namespace ddipp::controller
