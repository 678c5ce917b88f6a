#include "controller/metrics.hpp"

#include <stdexcept>

namespace ddipp::controller {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

prometheus::Gauge& gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

}  // namespace

Metrics::Metrics(const std::string& address, int port)
    : registry_(std::make_shared<prometheus::Registry>()),
      messages_(BuildCounter()
                    .Name("ddipp_messages_total")
                    .Help("Messages received by the controller")
                    .Register(*registry_)),
      bytes_(BuildCounter()
                 .Name("ddipp_bytes_total")
                 .Help("Bytes of the messages received by the controller")
                 .Register(*registry_)),
      latency_(BuildHistogram()
                   .Name("ddipp_request_seconds")
                   .Help("Time between a request and its result as the controller saw them")
                   .Register(*registry_)),
      engines_(gauge(*registry_, "ddipp_engines", "Registered engines")),
      pending_(gauge(*registry_, "ddipp_requests_pending", "Requests without a result yet")),
      unassigned_(gauge(*registry_, "ddipp_tasks_unassigned", "Tasks that wait for an engine")) {
  const prometheus::Histogram::BucketBoundaries bounds{0.0003, 0.001, 0.003, 0.01, 0.03, 0.1,
                                                       0.3,    1,     3,     10,   30,   100};
  for (const Queue queue : {Queue::mux, Queue::task, Queue::broadcast}) {
    latency_of_[queue] = &latency_.Add({{"queue", std::string(name(queue))}}, bounds);
  }
  const std::string bind = (address == "*" ? "0.0.0.0" : address) + ":" + std::to_string(port);
  try {
    exposer_ = std::make_unique<prometheus::Exposer>(bind, 1);
  } catch (const std::exception& error) {
    throw std::runtime_error("can't serve metrics on " + bind + ": " + error.what());
  }
  port_ = exposer_->GetListeningPorts().front();
  exposer_->RegisterCollectable(registry_);
}

Metrics::Traffic Metrics::traffic(const std::string& channel, const std::string& direction) {
  const prometheus::Labels labels{{"channel", channel}, {"from", direction}};
  return {messages_.Add(labels), bytes_.Add(labels)};
}

void Metrics::Traffic::count(const net::Multipart& message) {
  std::size_t bytes = 0;
  for (const auto& frame : message) bytes += frame.size();
  messages_.Increment();
  bytes_.Increment(static_cast<double>(bytes));
}

void Metrics::finished(const Record& record) {
  if (!record.received) return;
  const std::chrono::duration<double> seconds = *record.received - record.arrived;
  latency_of_.at(record.queue)->Observe(seconds.count());
}

void Metrics::set_state(const Registry& registry, const Ledger& ledger) {
  engines_.Set(static_cast<double>(registry.engines().size()));
  pending_.Set(static_cast<double>(ledger.pending_count()));
  unassigned_.Set(static_cast<double>(ledger.unassigned_count()));
}

}  // namespace ddipp::controller
