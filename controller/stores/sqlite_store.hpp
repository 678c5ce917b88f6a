// Keeps records in a SQLite file with the schema of ipyparallel's tasks.db, so that either
// controller reads what the other wrote.
//
// What is new or changed is written in one transaction, every kFlushInterval or kFlushCount
// records, and before every question: a request and its result cost one row written once when they
// come close together. The file survives the death of the controller at any moment (write-ahead
// log); what was not flushed by then is lost.
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>

#include "controller/core/store.hpp"

namespace ddipp::controller {

class SqliteStore final : public Store {
 public:
  // `log` hears of records that could not be written, once for each cause. Throws
  // std::runtime_error with one line when the file can't be opened.
  SqliteStore(const std::filesystem::path& file, std::string table, protocol::Packing packing,
              std::function<void(const std::string&)> log);
  ~SqliteStore() override;

  const char* name() const override { return "sqlite"; }
  void add(const RecordPtr& record) override;
  void changed(const RecordPtr& record) override;
  StoreResult<std::vector<RecordPtr>> find(const Query& query, bool buffers) override;
  StoreResult<std::monostate> drop(const Query& query) override;
  StoreResult<std::vector<std::string>> history() override;
  std::optional<TimePoint> next_flush() const override { return flush_at_; }
  void flush_if_due(TimePoint now) override;

  static constexpr std::chrono::milliseconds kFlushInterval{100};
  static constexpr std::size_t kFlushCount = 512;

 private:
  struct Dirty {
    RecordPtr record;
    bool inserted = false;  // a row is there already; the request's part does not change
  };

  void choose_table();
  bool has_our_columns(const std::string& table);
  void mark(const RecordPtr& record, bool inserted);
  void flush();
  void write(SQLite::Statement& insert, SQLite::Statement& update, const Dirty& dirty);
  RecordPtr read(SQLite::Statement& row, bool buffers) const;

  SQLite::Database database_;
  std::string table_;
  protocol::Packing packing_;
  std::function<void(const std::string&)> log_;
  std::string last_complaint_;
  std::unordered_map<std::string, RecordPtr> live_;  // unfinished: shared with the ledger
  std::unordered_map<std::string, Dirty> dirty_;
  std::vector<std::string> dirty_order_;  // rows keep the order of submission
  std::optional<TimePoint> flush_at_;
};

}  // namespace ddipp::controller
