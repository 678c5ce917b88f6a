#include "controller/stores/sqlite_store.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <stdexcept>

#include "controller/core/memory_store.hpp"
#include "controller/core/pickled_buffers.hpp"
#include "protocol/fields.hpp"

namespace ddipp::controller {

using protocol::Blob;
using protocol::Json;

namespace {

// Declared types of the columns, which ipyparallel compares before it uses a table.
constexpr std::array<std::string_view, kRecordKeys.size()> kTypes{
    "text",      "dict text", "dict text", "dict text", "bufs blob", "timestamp",
    "text",      "text",      "timestamp", "timestamp", "text",      "timestamp",
    "dict text", "dict text", "dict text", "bufs blob", "text",      "text",
    "text",      "text",      "text",      "text",      "text"};

// What the result, the engine and the output of a request can change.
constexpr std::array<std::string_view, 14> kChanging{
    "engine_uuid",    "started",         "completed",      "resubmitted",    "received",
    "result_header",  "result_metadata", "result_content", "result_buffers", "execute_input",
    "execute_result", "error",           "stdout",         "stderr"};

std::string sql_name(const std::string& name) {
  std::string text = "\"";
  for (const char letter : name)
    text += letter == '"' ? std::string("\"\"") : std::string(1, letter);
  return text + "\"";
}

// SQLite 3.37 and later report "text" as "TEXT".
bool same_type(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return (x | 0x20) == (y | 0x20); });
}

// ipyparallel's dates end in an offset.
std::string sql_date(std::string date) {
  if (date.ends_with('Z')) date.replace(date.size() - 1, 1, "+00:00");
  return date;
}

void bind_blob(SQLite::Statement& statement, int index, const std::vector<Blob>& buffers) {
  if (buffers.empty()) return statement.bind(index);
  const std::string pickled = pickle_buffers(buffers);
  statement.bind(index, pickled.data(), static_cast<int>(pickled.size()));
}

// The packed form of a column that holds a message's part, null for the other columns.
const std::string* packed_part(const Record& record, std::string_view key) {
  static const std::string none;
  if (key == "header") return &record.request.header;
  if (key == "metadata") return &record.request.metadata;
  if (key == "content") return &record.request.content;
  if (!key.starts_with("result_") || key == "result_buffers") return nullptr;
  if (!record.result) return &none;
  if (key == "result_header") return &record.result->header;
  if (key == "result_metadata") return &record.result->metadata;
  return &record.result->content;
}

void bind(SQLite::Statement& statement, int index, const Record& record, std::string_view key) {
  const auto* part = packed_part(record, key);
  if (part != nullptr && part->empty()) return statement.bind(index);
  if (part != nullptr && record.packing == protocol::Packing::json) {
    return statement.bindNoCopy(index, *part);  // JSON as it came
  }
  if (key == "buffers") return bind_blob(statement, index, record.request.buffers);
  if (key == "result_buffers") {
    return record.result ? bind_blob(statement, index, record.result->buffers)
                         : statement.bind(index);
  }
  const Json value = field(record, key);
  if (value.is_null()) return statement.bind(index);
  if (!value.is_string())
    return statement.bind(index, protocol::pack(value, protocol::Packing::json));
  const auto& text = value.get_ref<const std::string&>();
  statement.bind(index, is_date_key(key) ? sql_date(text) : text);
}

// Only what SQL and matches() surely agree about; matches() decides on the rest.
struct Where {
  std::string clause;
  std::vector<std::string> values;

  void add(const std::string& condition) {
    clause += (clause.empty() ? " WHERE " : " AND ") + condition;
  }
};

bool is_plain_text(std::string_view key) {
  return key == "msg_id" || key == "engine_uuid" || key == "client_uuid" || key == "queue" ||
         key == "label" || key == "resubmitted";
}

void add_condition(Where& where, const Condition& condition) {
  const bool is_null = condition.value.is_null();
  if (condition.op == Operator::eq && is_null && condition.key != "stdout" &&
      condition.key != "stderr") {
    return where.add(condition.key + " IS NULL");
  }
  if (condition.op == Operator::ne && is_null) return where.add(condition.key + " IS NOT NULL");
  if (!is_plain_text(condition.key)) return;
  if (condition.op == Operator::eq && condition.value.is_string()) {
    where.add(condition.key + " = ?");
    where.values.push_back(condition.value.get<std::string>());
  } else if (condition.op == Operator::in && condition.value.is_array() &&
             !condition.value.empty() && condition.value.size() < 500 &&
             std::all_of(condition.value.begin(), condition.value.end(),
                         [](const Json& item) { return item.is_string(); })) {
    std::string marks;
    for (const Json& item : condition.value) {
      marks += marks.empty() ? "?" : ",?";
      where.values.push_back(item.get<std::string>());
    }
    where.add(condition.key + " IN (" + marks + ")");
  }
}

Where where_of(const Query& query) {
  Where where;
  for (const auto& condition : query) add_condition(where, condition);
  return where;
}

std::string text_of(const SQLite::Column& column) {
  return column.isNull() ? std::string() : column.getString();
}

std::string bytes_of(const SQLite::Column& column) {
  const auto* bytes = static_cast<const char*>(column.getBlob());
  return bytes == nullptr ? std::string()
                          : std::string(bytes, static_cast<std::size_t>(column.getBytes()));
}

// What ipyparallel wrote stays readable if its columns hold JSON; ours may be msgpack in memory.
std::string repacked(std::string json, protocol::Packing packing) {
  if (packing == protocol::Packing::json || json.empty()) return json;
  const auto value = protocol::unpack(json, protocol::Packing::json);
  return value ? protocol::pack(*value, packing) : std::string();
}

StoreError store_error(const SQLite::Exception& error) {
  return {"RuntimeError", std::string("the result database failed: ") + error.what()};
}

}  // namespace

SqliteStore::SqliteStore(const std::filesystem::path& file, std::string table,
                         protocol::Packing packing, std::function<void(const std::string&)> log) try
    : database_(file.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, 2000),
      table_(std::move(table)),
      packing_(packing),
      log_(std::move(log)) {
  database_.exec("PRAGMA journal_mode=WAL");
  database_.exec("PRAGMA synchronous=NORMAL");
  choose_table();
} catch (const SQLite::Exception& error) {
  throw std::runtime_error("can't use the result database " + file.string() + ": " + error.what());
}

SqliteStore::~SqliteStore() {
  flush();
  if (!dirty_.empty()) log_(std::to_string(dirty_.size()) + " results are lost");
}

// A table of another format is left alone, as ipyparallel does.
void SqliteStore::choose_table() {
  const std::string first = table_.empty() ? "ipython-tasks" : table_;
  table_ = first;
  for (int i = 1; !has_our_columns(table_); ++i) {
    log_("table '" + table_ + "' of the result database has another format");
    table_ = first + "_" + std::to_string(i);
  }
  std::string columns;
  for (std::size_t i = 0; i < kRecordKeys.size(); ++i) {
    columns += (i == 0 ? "" : ", ") + std::string(kRecordKeys[i]) + " " + std::string(kTypes[i]) +
               (i == 0 ? " PRIMARY KEY" : "");
  }
  database_.exec("CREATE TABLE IF NOT EXISTS " + sql_name(table_) + " (" + columns + ")");
}

bool SqliteStore::has_our_columns(const std::string& table) {
  SQLite::Statement info(database_, "PRAGMA table_info(" + sql_name(table) + ")");
  std::size_t column = 0;
  while (info.executeStep()) {
    if (column >= kRecordKeys.size() || info.getColumn(1).getString() != kRecordKeys[column] ||
        !same_type(info.getColumn(2).getString(), kTypes[column])) {
      return false;
    }
    ++column;
  }
  return column == 0 || column == kRecordKeys.size();
}

void SqliteStore::add(const RecordPtr& record) {
  live_[record->msg_id] = record;
  mark(record, false);
}

void SqliteStore::changed(const RecordPtr& record) {
  if (record->finished()) live_.erase(record->msg_id);
  mark(record, !dirty_.contains(record->msg_id) || dirty_.at(record->msg_id).inserted);
}

void SqliteStore::mark(const RecordPtr& record, bool inserted) {
  if (dirty_.insert_or_assign(record->msg_id, Dirty{record, inserted}).second) {
    dirty_order_.push_back(record->msg_id);
  }
  if (dirty_.size() >= kFlushCount) return flush();
  if (!flush_at_) flush_at_ = std::chrono::steady_clock::now() + kFlushInterval;
}

void SqliteStore::flush_if_due(TimePoint now) {
  if (flush_at_ && *flush_at_ <= now) flush();
}

void SqliteStore::flush() {
  flush_at_.reset();
  if (dirty_.empty()) return;
  std::string marks;
  for (std::size_t i = 0; i < kRecordKeys.size(); ++i) marks += i == 0 ? "?" : ",?";
  std::string sets;
  for (const auto key : kChanging) {
    sets += (sets.empty() ? "" : ", ") + std::string(key) + " = ?";
  }
  try {
    SQLite::Transaction transaction(database_);
    SQLite::Statement insert(
        database_, "INSERT OR REPLACE INTO " + sql_name(table_) + " VALUES (" + marks + ")");
    SQLite::Statement update(database_,
                             "UPDATE " + sql_name(table_) + " SET " + sets + " WHERE msg_id = ?");
    for (const auto& id : dirty_order_) {
      if (const auto dirty = dirty_.find(id); dirty != dirty_.end()) {
        write(insert, update, dirty->second);
      }
    }
    transaction.commit();
    dirty_.clear();
    dirty_order_.clear();
    last_complaint_.clear();
  } catch (const SQLite::Exception& error) {
    // They stay in memory and are tried again.
    flush_at_ = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    if (last_complaint_ != error.what()) {
      last_complaint_ = error.what();
      log_("results can't be written to " + database_.getFilename() + " (" + last_complaint_ +
           "); they are kept in memory until they can");
    }
  }
}

void SqliteStore::write(SQLite::Statement& insert, SQLite::Statement& update, const Dirty& dirty) {
  const Record& record = *dirty.record;
  int index = 0;
  if (dirty.inserted) {
    for (const auto key : kChanging) bind(update, ++index, record, key);
    update.bind(++index, record.msg_id);
    update.exec();
    update.reset();
    return;
  }
  for (const auto key : kRecordKeys) bind(insert, ++index, record, key);
  insert.exec();
  insert.reset();
}

StoreResult<std::vector<RecordPtr>> SqliteStore::find(const Query& query, bool buffers) {
  flush();
  const Where where = where_of(query);
  std::vector<RecordPtr> found;
  std::set<std::string_view> rows;  // of those that are not written yet
  try {
    std::string columns;
    for (const auto key : kRecordKeys) {
      if (!columns.empty()) columns += ", ";
      columns += !buffers && key.ends_with("buffers") ? std::string("NULL") : std::string(key);
    }
    SQLite::Statement select(database_, "SELECT " + columns + " FROM " + sql_name(table_) +
                                            where.clause + " ORDER BY rowid");
    int index = 0;
    for (const auto& value : where.values) select.bind(++index, value);
    while (select.executeStep()) {
      const std::string msg_id = select.getColumn(0).getString();
      const auto live = live_.find(msg_id);
      const auto dirty = dirty_.find(msg_id);
      if (dirty != dirty_.end()) rows.insert(dirty->first);
      auto record = live != live_.end()     ? live->second
                    : dirty != dirty_.end() ? dirty->second.record
                                            : read(select, buffers);
      if (matches(query, *record)) found.push_back(std::move(record));
    }
  } catch (const SQLite::Exception& error) {
    return Failure{store_error(error)};
  }
  // On a full disk what is new, or has become what is asked for, is in memory only.
  for (const auto& id : dirty_order_) {
    const auto dirty = dirty_.find(id);
    if (dirty == dirty_.end() || !rows.insert(dirty->first).second) continue;
    if (matches(query, *dirty->second.record)) found.push_back(dirty->second.record);
  }
  return found;
}

RecordPtr SqliteStore::read(SQLite::Statement& row, bool buffers) const {
  const auto at = [&row](std::string_view key) {
    const auto* found = std::find(kRecordKeys.begin(), kRecordKeys.end(), key);
    return row.getColumn(static_cast<int>(found - kRecordKeys.begin()));
  };
  const auto packed = [&](std::string_view key) { return repacked(text_of(at(key)), packing_); };
  const auto blobs = [&](std::string_view key) {
    auto read = buffers ? unpickle_buffers(bytes_of(at(key))) : std::vector<Blob>{};
    return read ? std::move(*read) : std::vector<Blob>{};
  };
  auto record = std::make_shared<Record>();
  record->msg_id = text_of(at("msg_id"));
  record->packing = packing_;
  record->request = {packed("header"), packed("metadata"), packed("content"), blobs("buffers")};
  protocol::read_texts(record->request.header, packing_,
                       {{"msg_type", record->msg_type}, {"session", record->client}});
  record->engine = text_of(at("engine_uuid"));
  record->queue = queue_from_name(text_of(at("queue")));
  record->resubmitted = text_of(at("resubmitted"));
  record->received = protocol::parse_iso8601(text_of(at("received")));
  record->execute_input = text_of(at("execute_input"));
  record->execute_result = packed("execute_result");
  record->error = packed("error");
  record->output = text_of(at("stdout"));
  record->error_output = text_of(at("stderr"));
  if (!at("completed").isNull()) {
    record->result = Parts{packed("result_header"), packed("result_metadata"),
                           packed("result_content"), blobs("result_buffers")};
  }
  return record;
}

StoreResult<std::monostate> SqliteStore::drop(const Query& query) {
  const auto found = find(query, false);
  if (!found) return Failure{found.error()};
  try {
    SQLite::Transaction transaction(database_);
    SQLite::Statement remove(database_, "DELETE FROM " + sql_name(table_) + " WHERE msg_id = ?");
    for (const auto& record : *found) {
      remove.bind(1, record->msg_id);
      remove.exec();
      remove.reset();
      live_.erase(record->msg_id);
      dirty_.erase(record->msg_id);
    }
    transaction.commit();
  } catch (const SQLite::Exception& error) {
    return Failure{store_error(error)};
  }
  return std::monostate();
}

StoreResult<std::vector<std::string>> SqliteStore::history() {
  flush();
  try {
    std::vector<std::string> ids;
    SQLite::Statement select(database_,
                             "SELECT msg_id FROM " + sql_name(table_) +
                                 " WHERE submitted IS NOT NULL ORDER BY submitted, rowid");
    while (select.executeStep()) ids.push_back(select.getColumn(0).getString());
    for (const auto& id : dirty_order_) {
      const auto dirty = dirty_.find(id);
      if (dirty != dirty_.end() && !dirty->second.inserted) ids.push_back(id);
    }
    return ids;
  } catch (const SQLite::Exception& error) {
    return Failure{store_error(error)};
  }
}

}  // namespace ddipp::controller
