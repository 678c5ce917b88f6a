#include "protocol/connection_file.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>

namespace ddipp::protocol {
namespace {

// Reads entries of a JSON object and remembers the first complaint.
class Reader {
 public:
  explicit Reader(const Json& json) : json_(json) {
    if (!json.is_object()) fail("it is not a JSON object");
  }

  void text(const char* key, std::string& target, bool required = false) {
    const Json* entry = find(key, required);
    if (entry == nullptr) return;
    if (!entry->is_string()) return fail(std::string("'") + key + "' is not a text");
    target = entry->get<std::string>();
  }

  void port(const char* key, int& target) {
    const Json* entry = find(key, true);
    if (entry == nullptr) return;
    if (!entry->is_number_integer()) return fail(std::string("'") + key + "' is not a port");
    target = entry->get<int>();
  }

  void ports(const char* key, std::vector<int>& target) {
    const Json* entry = find(key, true);
    if (entry == nullptr) return;
    if (!entry->is_array() || entry->empty()) {
      return fail(std::string("'") + key + "' is not a list of ports");
    }
    for (const Json& item : *entry) {
      if (!item.is_number_integer())
        return fail(std::string("'") + key + "' is not a list of ports");
      target.push_back(item.get<int>());
    }
  }

  const std::string& complaint() const { return complaint_; }

 private:
  const Json* find(const char* key, bool required) {
    if (!complaint_.empty()) return nullptr;
    const auto found = json_.find(key);
    if (found != json_.end() && !found->is_null()) return &*found;
    if (required) fail(std::string("it has no entry '") + key + "'");
    return nullptr;
  }

  void fail(const std::string& why) {
    if (complaint_.empty()) complaint_ = why;
  }

  const Json& json_;
  std::string complaint_;
};

void read_common(Reader& reader, ConnectionCommon& common) {
  reader.text("interface", common.interface, true);
  reader.text("location", common.location);
  reader.text("key", common.key);
  reader.text("signature_scheme", common.signature_scheme);
  reader.text("pack", common.pack);
  reader.text("unpack", common.unpack);
  reader.text("ssh", common.ssh);
  reader.text("curve_serverkey", common.curve_serverkey);
  reader.port("registration", common.registration);
}

Json common_json(const ConnectionCommon& common) {
  Json json{{"interface", common.interface},
            {"location", common.location},
            {"key", common.key},
            {"signature_scheme", common.signature_scheme},
            {"pack", common.pack},
            {"unpack", common.unpack},
            {"ssh", common.ssh},
            {"registration", common.registration}};
  json["curve_serverkey"] =
      common.curve_serverkey.empty() ? Json(nullptr) : Json(common.curve_serverkey);
  return json;
}

std::string error_text(const std::filesystem::path& path, const char* doing) {
  return std::string("can't ") + doing + " " + path.string() + ": " + std::strerror(errno);
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

Json to_json(const ClientConnection& connection) {
  Json json = common_json(connection.common);
  json.update(Json{{"control", connection.control},
                   {"mux", connection.mux},
                   {"task", connection.task},
                   {"task_scheme", connection.task_scheme},
                   {"iopub", connection.iopub},
                   {"notification", connection.notification},
                   {"broadcast", connection.broadcast}});
  return json;
}

Json endpoints(const EngineConnection& connection) {
  return Json{{"interface", connection.common.interface},
              {"registration", connection.common.registration},
              {"control", connection.control},
              {"mux", connection.mux},
              {"task", connection.task},
              {"iopub", connection.iopub},
              {"hb_ping", connection.hb_ping},
              {"hb_pong", connection.hb_pong},
              {"broadcast", connection.broadcast}};
}

Json to_json(const EngineConnection& connection) {
  Json json = common_json(connection.common);
  json.update(endpoints(connection));
  return json;
}

Result<ClientConnection> parse_client_connection(const Json& json) {
  ClientConnection connection;
  Reader reader(json);
  read_common(reader, connection.common);
  reader.port("control", connection.control);
  reader.port("mux", connection.mux);
  reader.port("task", connection.task);
  reader.port("iopub", connection.iopub);
  reader.port("notification", connection.notification);
  reader.port("broadcast", connection.broadcast);
  reader.text("task_scheme", connection.task_scheme);
  if (!reader.complaint().empty()) return Failure{reader.complaint()};
  return connection;
}

Result<EngineConnection> parse_engine_connection(const Json& json) {
  EngineConnection connection;
  Reader reader(json);
  read_common(reader, connection.common);
  reader.port("control", connection.control);
  reader.port("mux", connection.mux);
  reader.port("task", connection.task);
  reader.port("iopub", connection.iopub);
  reader.port("hb_ping", connection.hb_ping);
  reader.port("hb_pong", connection.hb_pong);
  reader.ports("broadcast", connection.broadcast);
  if (!reader.complaint().empty()) return Failure{reader.complaint()};
  return connection;
}

Result<Json> read_json_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return Failure{error_text(path, "read the file")};
  std::ostringstream text;
  text << file.rdbuf();
  auto json = unpack(text.str(), Packing::json);
  if (text.str().empty()) return Failure{"the file " + path.string() + " is empty"};
  if (!json) return Failure{"the file " + path.string() + " is not valid JSON"};
  return std::move(*json);
}

Result<std::monostate> write_json_file(const std::filesystem::path& path, const Json& json) {
  std::string temporary = path.string() + ".XXXXXX";
  const int fd = ::mkostemp(temporary.data(), O_CLOEXEC);  // creates with mode 0600
  if (fd < 0) return Failure{error_text(path, "write the file")};
  const bool written = write_all(fd, json.dump(2) + "\n") && ::fsync(fd) == 0;
  const bool closed = ::close(fd) == 0;
  if (!written || !closed || ::rename(temporary.c_str(), path.c_str()) != 0) {
    auto failure = Failure{error_text(path, "write the file")};
    ::unlink(temporary.c_str());
    return failure;
  }
  return std::monostate{};
}

}  // namespace ddipp::protocol
