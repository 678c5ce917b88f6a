#include "engine/ddp/collective_log.hpp"

#include <ATen/record_function.h>
#include <algorithm>
#include <string_view>

namespace ddipp::torch_plugin {

void CollectiveLog::reset() {
  const std::lock_guard lock(mutex_);
  count_ = 0;
  finished_at_abort_.reset();
  unfinished_.clear();
  last_.reset();
}

CollectiveLog::Handle CollectiveLog::begin(std::string name, std::int64_t elements) {
  const std::lock_guard lock(mutex_);
  const bool between_two = name.starts_with("send") || name.starts_with("recv");
  Collective collective{between_two ? 0 : ++count_, std::move(name), elements,
                        std::chrono::steady_clock::now(), std::nullopt};
  last_ = collective;
  last_handle_ = next_handle_;
  unfinished_.emplace(next_handle_, std::move(collective));
  return next_handle_++;
}

void CollectiveLog::end(Handle handle) {
  const std::lock_guard lock(mutex_);
  const auto found = unfinished_.find(handle);
  if (found == unfinished_.end()) return;  // of an older generation
  if (last_ && handle == last_handle_) last_->ended = std::chrono::steady_clock::now();
  unfinished_.erase(found);
}

std::optional<Collective> CollectiveLog::current() const {
  const std::lock_guard lock(mutex_);
  return unfinished_.empty() ? last_ : unfinished_.begin()->second;
}

std::uint64_t CollectiveLog::count() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

void CollectiveLog::note_abort() {
  const std::lock_guard lock(mutex_);
  if (!finished_at_abort_) finished_at_abort_ = finished_now();
}

std::uint64_t CollectiveLog::finished() const {
  const std::lock_guard lock(mutex_);
  return finished_at_abort_.value_or(finished_now());
}

std::uint64_t CollectiveLog::finished_now() const {
  std::uint64_t least = count_ + 1;
  for (const auto& [handle, collective] : unfinished_) {
    if (collective.number != 0) least = std::min(least, collective.number);
  }
  return least - 1;
}

namespace {

CollectiveLog* recorded = nullptr;

struct Observed : at::ObserverContext {
  explicit Observed(CollectiveLog::Handle its_handle) : handle(its_handle) {}
  CollectiveLog::Handle handle;
};

std::int64_t count_elements(const c10::IValue& value) {
  if (value.isTensor()) return value.toTensor().defined() ? value.toTensor().numel() : 0;
  if (!value.isTensorList()) return 0;
  std::int64_t sum = 0;
  for (const at::Tensor& tensor : value.toTensorList())
    sum += tensor.defined() ? tensor.numel() : 0;
  return sum;
}

std::unique_ptr<at::ObserverContext> on_begin(const at::RecordFunction& function) {
  std::string_view name(function.name());
  const auto colon = name.find(':');
  if (colon == std::string_view::npos) return nullptr;
  const auto backend = name.substr(0, colon);
  if (backend != "gloo" && backend != "nccl" && backend != "nccl2") return nullptr;
  name.remove_prefix(colon + 1);
  std::int64_t elements = 0;
  for (const auto& input : function.inputs()) elements += count_elements(input);
  return std::make_unique<Observed>(recorded->begin(std::string(name), elements));
}

void on_end(const at::RecordFunction&, at::ObserverContext* context) {
  if (context != nullptr) recorded->end(static_cast<Observed*>(context)->handle);
}

}  // namespace

void start_recording(CollectiveLog& log) {
  recorded = &log;
  at::addGlobalCallback(at::RecordFunctionCallback(on_begin, on_end)
                            .needsInputs(true)
                            .scopes({at::RecordScope::USER_SCOPE}));
}

}  // namespace ddipp::torch_plugin
