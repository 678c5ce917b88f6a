#include "controller/options.hpp"

#include <array>
#include <fstream>
#include <unistd.h>
#include <vector>

#include <CLI/CLI.hpp>

#include "common/command_line.hpp"
#include "common/profile.hpp"

namespace ddipp::controller {
namespace {

using Arguments = std::vector<std::string>;

const std::vector<std::string> kClasses{
    "IPController",           "IPControllerApp", "HubFactory", "Hub",     "HeartMonitor",
    "TaskScheduler",          "DictDB",          "SQLiteDB",   "Session", "ProfileDir",
    "BaseParallelApplication"};

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

// "ipyparallel.controller.sqlitedb.SQLiteDB", "SQLiteDB" or "sqlitedb" -> "sqlite"
std::string store_name(const std::string& db_class) {
  const std::string name = CLI::detail::to_lower(db_class.substr(db_class.rfind('.') + 1));
  if (name == "nodb" || name == "none") return "none";
  if (name == "dictdb" || name == "dict") return "dict";
  if (name == "sqlitedb" || name == "sqlite") return "sqlite";
  throw CLI::ValidationError("--IPController.db_class",
                             "'" + db_class + "' is none of DictDB, SQLiteDB and NoDB");
}

// What can't be written to Options as it is parsed.
struct Raw {
  std::string profile, profile_dir, ipython_dir, work_dir;
  std::string ip = "127.0.0.1", client_ip, engine_ip;
  std::string transport = "tcp", client_transport, engine_transport;
  std::string sqlite_folder, sqlite_file = "tasks.db", keyfile, session_key, ignored;
  int ping = 3000;
  int registration_timeout = 0;
  int linger = 0;
  bool secure = true;
  bool log_to_file = false;
};

void add_places(CLI::App& app, Options& options, Raw& raw) {
  app.option_defaults()->group("Where");
  app.add_option("--profile", raw.profile, "IPython profile by name [default]");
  app.add_option("--profile-dir,--ProfileDir.location", raw.profile_dir,
                 "IPython profile by folder");
  app.add_option("--ipython-dir", raw.ipython_dir, "IPython's folder [$IPYTHONDIR or ~/.ipython]");
  app.add_option("--cluster-id,--IPController.cluster_id", options.cluster_id,
                 "Name of the cluster, part of the files' names [$IPP_CLUSTER_ID]");
  app.add_option("--work-dir,--IPController.work_dir", raw.work_dir, "Change to this folder");
}

void add_network(CLI::App& app, Options& options, Raw& raw) {
  app.option_defaults()->group("Network");
  app.add_option("--ip,--IPController.ip", raw.ip,
                 "Listen on this address; '*' for all [127.0.0.1]");
  app.add_option("--IPController.client_ip", raw.client_ip, "Address for clients [--ip]");
  app.add_option("--IPController.engine_ip", raw.engine_ip, "Address for engines [--ip]");
  const auto transports = CLI::IsMember({"tcp", "ipc"});
  app.add_option("--transport,--IPController.transport", raw.transport, "tcp or ipc [tcp]")
      ->check(transports);
  app.add_option("--IPController.client_transport", raw.client_transport, "[--transport]")
      ->check(transports);
  app.add_option("--IPController.engine_transport", raw.engine_transport, "[--transport]")
      ->check(transports);
  app.add_option("--location,--IPController.location", options.location,
                 "Name or address by which others reach this machine [its host name]");
  app.add_option("--ports,--IPController.ports", options.ports,
                 "Pool of ports, such as 10101-10120 [any free ones]");
  app.add_option("--client-ports,--IPController.client_ports", options.client_ports,
                 "Pool of ports for clients, used before --ports");
  app.add_option("--port,--engine-ports,--IPController.engine_ports,--IPController.regport",
                 options.engine_ports,
                 "Pool of ports for engines, used before --ports; the first is the one where "
                 "engines and clients register");
  app.add_option("--ssh,--IPController.ssh_server", options.client_ssh,
                 "[user@]server[:port] through which clients reach this machine");
  app.add_option("--enginessh,--IPController.engine_ssh_server", options.engine_ssh,
                 "[user@]server[:port] through which engines reach this machine");
}

void add_security(CLI::App& app, Options& options, Raw& raw) {
  app.option_defaults()->group("Security");
  app.add_flag("--secure,!--no-secure", raw.secure, "Sign all messages [yes]");
  app.add_option("--Session.key", raw.session_key,
                 "Sign with this key [$IPP_SESSION_KEY or a random one]");
  app.add_option("--keyfile,--Session.keyfile", raw.keyfile, "Sign with the key in this file");
  app.add_option("--packer,--Session.packer", options.pack, "json or msgpack [json]")
      ->check(CLI::IsMember({"json", "msgpack"}));
  app.add_flag("--enable-curve,--IPController.enable_curve", options.curve.enabled,
               "Encrypt all connections with CURVE [$IPP_ENABLE_CURVE=1]");
  app.add_option("--IPController.curve_publickey", options.curve.public_key,
                 "[$IPP_CURVE_PUBLICKEY or a fresh one]");
  app.add_option("--IPController.curve_secretkey", options.curve.secret_key,
                 "[$IPP_CURVE_SECRETKEY or a fresh one]");
}

void add_limits(CLI::App& app, Options& options) {
  app.option_defaults()->group("Limits");
  const auto bytes = CLI::AsSizeValue(false);
  app.add_option("--max-message", options.max_message,
                 "Bytes of one frame (16G); a peer that sends a larger one is disconnected [the "
                 "machine's memory]")
      ->transform(bytes);
  app.add_option("--queue-limit", options.queue_limit,
                 "Bytes of requests that have no result yet; further ones are refused [half of the "
                 "machine's memory]")
      ->transform(bytes);
  app.add_option("--output-queue", options.output_queue,
                 "Messages of output that a client may leave unread; it loses further ones "
                 "[100000]")
      ->check(CLI::PositiveNumber);
}

std::int64_t machine_memory() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  return pages > 0 ? std::int64_t{pages} * ::sysconf(_SC_PAGESIZE) : std::int64_t{1} << 40;
}

void add_engines(CLI::App& app, Options& options, Raw& raw) {
  app.option_defaults()->group("Engines");
  app.add_flag("--reuse,--IPController.reuse_files", options.reuse,
               "Listen where an earlier controller did, by its connection files");
  app.add_flag("--restore,--IPController.restore_engines", options.restore,
               "--reuse, and expect its engines back; with --sqlitedb run its unfinished tasks");
  app.add_option("--ping,--HeartMonitor.period", raw.ping, "Milliseconds between heartbeats [3000]")
      ->check(CLI::Range(1, 3'600'000));
  app.add_option("--HeartMonitor.max_heartmonitor_misses", options.max_heartbeat_misses,
                 "Heartbeats an engine may miss in a row [10]")
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--IPController.registration_timeout", raw.registration_timeout,
                 "Seconds for a registration [30 or ten pings]")
      ->check(CLI::NonNegativeNumber);
}

void add_tasks(CLI::App& app, Options& options) {
  app.option_defaults()->group("Tasks");
  app.add_option("--scheme,--TaskScheduler.scheme_name", options.scheme,
                 "leastload, lru, plainrandom, weighted, twobin or pure [leastload]")
      ->check(CLI::IsMember({"leastload", "lru", "plainrandom", "weighted", "twobin", "pure"}));
  app.add_option("--hwm,--TaskScheduler.hwm", options.hwm,
                 "Tasks at a time on an engine of a load-balanced view, 0 for no limit [1]")
      ->check(CLI::NonNegativeNumber);
}

void add_results(CLI::App& app, Options& options, Raw& raw) {
  app.option_defaults()->group("Results");
  app.add_flag_callback(
      "--dictdb", [&] { options.store = "dict"; }, "Keep results in memory [default]");
  app.add_flag_callback(
      "--sqlitedb", [&] { options.store = "sqlite"; }, "Keep results in a file");
  app.add_flag_callback(
      "--nodb", [&] { options.store = "none"; }, "Keep no results");
  app.add_option_function<std::string>(
      "--IPController.db_class", [&](const std::string& name) { options.store = store_name(name); },
      "DictDB, SQLiteDB or NoDB");
  app.add_option("--DictDB.record_limit", options.memory.record_limit,
                 "Records in memory at most [1024]");
  app.add_option("--DictDB.size_limit", options.memory.size_limit,
                 "Bytes in memory at most [1 GiB]");
  app.add_option("--DictDB.cull_fraction", options.memory.cull_fraction,
                 "Part of a limit that is freed when it is exceeded [0.1]")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--SQLiteDB.location", raw.sqlite_folder, "Folder of the file [the profile]");
  app.add_option("--SQLiteDB.filename", raw.sqlite_file, "[tasks.db]");
  app.add_option("--SQLiteDB.table", options.sqlite.table, "[ipython-tasks]");
}

void add_operation(CLI::App& app, Options& options, Raw& raw) {
  app.option_defaults()->group("Operation");
  app.add_option("--log-level", options.log_level, "debug, info, warn, err, or Python's number");
  app.add_flag("--log-to-file,--BaseParallelApplication.log_to_file,--IPController.log_to_file",
               raw.log_to_file, "Write the log to the profile's log folder");
  app.add_option(
         "--linger", raw.linger,
         "End, with the engines, when for so many seconds no client was connected and "
         "nothing ran; 0 for never [0]. Meanwhile a cell that failed on one engine is ended "
         "on the others")
      ->check(CLI::Range(0, 1'000'000'000));
  app.add_option("--metrics-port", options.metrics_port,
                 "Serve metrics in Prometheus' text format on this port of --ip, 0 for any")
      ->check(CLI::Range(0, 65535));
  // Of the original; there is nothing here that they could change.
  app.add_flag("--usethreads,--IPController.use_threads", raw.ignored,
               "Accepted for ipcontroller's sake");
}

std::optional<std::string> signing_key(const Options& options, const Raw& raw) {
  if (!raw.secure) return "";
  if (!raw.keyfile.empty()) {
    std::ifstream file(raw.keyfile);
    std::string key;
    if (!std::getline(file, key) || key.empty()) {
      throw CLI::ValidationError("--keyfile", "there is no key in " + raw.keyfile);
    }
    return key;
  }
  if (!raw.session_key.empty()) return raw.session_key;
  if (options.curve.enabled) return "";  // CURVE authenticates and protects against replay
  return std::nullopt;
}

void finish(Options& options, const Raw& raw) {
  const auto either = [](const std::string& own, const std::string& common) {
    return own.empty() ? common : own;
  };
  options.profile_dir = find_profile_dir(raw.profile_dir, raw.ipython_dir, raw.profile);
  options.client_interface =
      either(raw.client_transport, raw.transport) + "://" + either(raw.client_ip, raw.ip);
  options.engine_interface =
      either(raw.engine_transport, raw.transport) + "://" + either(raw.engine_ip, raw.ip);
  if (options.location.empty()) options.location = host_name();
  options.key = signing_key(options, raw);
  options.ping_period = std::chrono::milliseconds(raw.ping);
  options.registration_timeout = std::chrono::seconds(raw.registration_timeout);
  options.linger = std::chrono::seconds(raw.linger);
  options.reuse = options.reuse || options.restore;
  if (options.cluster_id.find('/') != std::string::npos) {
    throw CLI::ValidationError("--cluster-id", "a cluster's name can't hold '/'");
  }
  if (options.max_message <= 0) options.max_message = machine_memory();
  if (options.queue_limit <= 0) options.queue_limit = machine_memory() / 2;
  options.sqlite.file =
      (raw.sqlite_folder.empty() ? options.profile_dir : std::filesystem::path(raw.sqlite_folder)) /
      raw.sqlite_file;
  options.log_level = log_level_name(options.log_level);
  if (raw.log_to_file) {
    options.log_file =
        options.profile_dir / "log" /
        ("ipcontroller-" + options.cluster_id + "-" + std::to_string(::getpid()) + ".log");
  }
}

// Throws CLI::ParseError, whose meaning `app` knows.
Options parse(CLI::App& app, const Arguments& arguments) {
  Options options;
  Raw raw;
  options.cluster_id = environment("IPP_CLUSTER_ID");
  raw.session_key = environment("IPP_SESSION_KEY");
  options.curve = {environment("IPP_ENABLE_CURVE") == "1", environment("IPP_CURVE_PUBLICKEY"),
                   environment("IPP_CURVE_SECRETKEY")};

  app.name("dipcontroller");
  app.set_help_all_flag("--help-all", "As --help");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_version_flag("--version", DDIPP_VERSION);
  add_places(app, options, raw);
  add_network(app, options, raw);
  add_security(app, options, raw);
  add_limits(app, options);
  add_engines(app, options, raw);
  add_tasks(app, options);
  add_results(app, options, raw);
  add_operation(app, options, raw);
  app.footer(
      "Options may also stand in ipcontroller_config.json of the profile:\n"
      "  {\"IPController\": {\"ip\": \"*\"}, \"HeartMonitor\": {\"period\": 1000}}");
  parse_command_line(app, arguments);
  finish(options, raw);
  if (!raw.work_dir.empty()) std::filesystem::current_path(raw.work_dir);
  return options;
}

}  // namespace

std::filesystem::path Options::connection_file(const std::string& kind) const {
  return connection_file_path(profile_dir, cluster_id, kind);
}

std::filesystem::path Options::engines_file() const {
  return profile_dir / "log" / ("engines" + cluster_id + ".json");
}

ParsedOptions parse_options(int argc, char** argv) {
  const Arguments own(argv + 1, argv + argc);
  const char* about = "The controller of a ddipp cluster: engines register here, clients connect.";
  CLI::App first{about};
  CLI::App second{about};
  CLI::App* app = &first;
  try {
    Options options = parse(first, own);
    // The profile is known now; what its file says comes before the command line, which wins.
    auto all = read_config_file(options.profile_dir / "ipcontroller_config.json", kClasses);
    if (all.empty()) return {options, std::nullopt};
    all.insert(all.end(), own.begin(), own.end());
    app = &second;
    return {parse(second, all), std::nullopt};
  } catch (const CLI::ParseError& error) {
    return {{}, app->exit(error)};
  } catch (const std::filesystem::filesystem_error& error) {
    return {{}, app->exit(CLI::ParseError(error.what(), 1))};
  }
}

}  // namespace ddipp::controller
