// Where records are kept: the interface of MemoryStore and NoStore here and of SqliteStore in
// stores/.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "controller/core/query.hpp"
#include "controller/core/record.hpp"
#include "protocol/result.hpp"

namespace ddipp::controller {

// What a client is told: the name of a Python exception and one line.
struct StoreError {
  std::string name;
  std::string why;
};

template <class T>
using StoreResult = Result<T, StoreError>;

class Store {
 public:
  Store() = default;
  using TimePoint = std::chrono::steady_clock::time_point;

  virtual ~Store() = default;
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  virtual const char* name() const = 0;

  // A new record. The store shares it with the ledger, which goes on changing it until it is
  // finished and says so with changed(). Neither can fail a request: a store that can't keep a
  // record loses it and says so in the log.
  virtual void add(const RecordPtr& record) = 0;
  virtual void changed(const RecordPtr& record) = 0;

  // In the order of submission. Without `buffers` they may be missing from what comes back.
  virtual StoreResult<std::vector<RecordPtr>> find(const Query& query, bool buffers) = 0;
  virtual StoreResult<std::monostate> drop(const Query& query) = 0;

  // When the store wants flush_if_due() to be called.
  virtual std::optional<TimePoint> next_flush() const { return std::nullopt; }
  virtual void flush_if_due(TimePoint /*now*/) {}

  // All msg_ids by the date of submission.
  virtual StoreResult<std::vector<std::string>> history() = 0;
};

// Keeps nothing; every question is an error that says so.
class NoStore final : public Store {
 public:
  const char* name() const override { return "none"; }
  void add(const RecordPtr&) override {}
  void changed(const RecordPtr&) override {}
  StoreResult<std::vector<RecordPtr>> find(const Query&, bool) override { return error(); }
  StoreResult<std::monostate> drop(const Query&) override { return std::monostate(); }
  StoreResult<std::vector<std::string>> history() override { return error(); }

 private:
  static Failure<StoreError> error() {
    return {
        {"NoData",
         "this controller keeps no results; start it with --dictdb or --sqlitedb to keep them"}};
  }
};

}  // namespace ddipp::controller
