// What the controller does, in Prometheus' text format, over HTTP.
#pragma once

#include <map>
#include <memory>
#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <string>

#include "controller/core/ledger.hpp"
#include "controller/core/registry.hpp"
#include "protocol/net/multipart.hpp"

namespace ddipp::controller {

class Metrics {
 public:
  // Throws std::runtime_error when the port can't be had. Port 0 is any free one.
  Metrics(const std::string& address, int port);

  int port() const { return port_; }

  // Counts messages and bytes of one direction of a channel; valid as long as the metrics.
  class Traffic {
   public:
    Traffic(prometheus::Counter& messages, prometheus::Counter& bytes)
        : messages_(messages), bytes_(bytes) {}
    void count(const net::Multipart& message);

   private:
    prometheus::Counter& messages_;
    prometheus::Counter& bytes_;
  };
  Traffic traffic(const std::string& channel, const std::string& direction);

  void finished(const Record& record);
  void set_state(const Registry& registry, const Ledger& ledger);

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>& messages_;
  prometheus::Family<prometheus::Counter>& bytes_;
  prometheus::Family<prometheus::Histogram>& latency_;
  prometheus::Gauge& engines_;
  prometheus::Gauge& pending_;
  prometheus::Gauge& unassigned_;
  std::map<Queue, prometheus::Histogram*> latency_of_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

}  // namespace ddipp::controller
