// What a client may ask the hub about requests: queues, loads, results, history, records, and to
// purge or resubmit them. Pure.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "controller/core/ledger.hpp"
#include "controller/core/registry.hpp"
#include "protocol/message.hpp"

namespace ddipp::controller {

struct Answer {
  std::string type;
  protocol::Json content;
  std::vector<protocol::Blob> buffers;
  std::vector<RecordPtr> resubmitted;  // to be run as new tasks
};

class HubQueries {
 public:
  // `make_header` gives a fresh id and date to a message of that type.
  HubQueries(const Registry& registry, Ledger& ledger, Store& store,
             std::function<protocol::Header(const std::string&)> make_header)
      : registry_(registry), ledger_(ledger), store_(store), make_header_(std::move(make_header)) {}

  // Nothing for a type that is no query.
  std::optional<Answer> answer(const protocol::Message& request);

 private:
  struct Targets {
    std::vector<Engine> engines;
    std::string fault;  // "" when all are known
  };

  Answer queue_status(const protocol::Message& request) const;
  Answer load(const protocol::Message& request) const;
  Answer results(const protocol::Message& request);
  Answer history();
  Answer records(const protocol::Message& request);
  Answer purge(const protocol::Message& request);
  Answer resubmit(const protocol::Message& request);

  Targets targets(const protocol::Json& wanted) const;
  RecordPtr again(const Record& record);

  const Registry& registry_;
  Ledger& ledger_;
  Store& store_;
  std::function<protocol::Header(const std::string&)> make_header_;
};

}  // namespace ddipp::controller
