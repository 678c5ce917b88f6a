#include "controller/options.hpp"

#include <array>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "launcher/profile.hpp"

namespace ddipp::controller {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

std::string interface_of(const std::string& transport, const std::string& address) {
  return transport + "://" + address;
}

}  // namespace

std::filesystem::path Options::connection_file(const std::string& kind) const {
  return connection_file_path(profile_dir, cluster_id, kind);
}

ParsedOptions parse_options(int argc, char** argv) {
  Options options;
  std::string profile, profile_dir, ipython_dir, ip = "127.0.0.1", client_ip, engine_ip;
  std::string transport = "tcp";
  int ping = 3000;
  options.cluster_id = environment("IPP_CLUSTER_ID");

  CLI::App app{"The controller of a ddipp cluster: engines register here, clients connect here."};
  app.name("dipcontroller");
  app.set_help_all_flag("--help-all", "As --help");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_version_flag("--version", DDIPP_VERSION);
  app.add_option("--profile", profile, "IPython profile by name [default]")->group("Where");
  app.add_option("--profile-dir,--ProfileDir.location", profile_dir, "IPython profile by folder")
      ->group("Where");
  app.add_option("--ipython-dir", ipython_dir, "IPython's folder [$IPYTHONDIR or ~/.ipython]")
      ->group("Where");
  app.add_option("--cluster-id,--IPController.cluster_id", options.cluster_id,
                 "Name of the cluster, part of the connection files' names [$IPP_CLUSTER_ID]")
      ->group("Where");
  app.add_option("--ip,--IPController.ip", ip, "Listen on this address; '*' for all [127.0.0.1]")
      ->group("Network");
  app.add_option("--IPController.client_ip", client_ip, "Address for clients [--ip]")
      ->group("Network");
  app.add_option("--IPController.engine_ip", engine_ip, "Address for engines [--ip]")
      ->group("Network");
  app.add_option("--transport,--IPController.transport", transport, "tcp or ipc [tcp]")
      ->check(CLI::IsMember({"tcp", "ipc"}))
      ->group("Network");
  app.add_option("--location,--IPController.location", options.location,
                 "Name or address by which others reach this machine [its host name]")
      ->group("Network");
  app.add_option("--ports,--IPController.ports", options.ports,
                 "Pool of ports, such as 10101-10120 [any free ones]")
      ->group("Network");
  app.add_option("--client-ports,--IPController.client_ports", options.client_ports,
                 "Pool of ports for clients, used before --ports")
      ->group("Network");
  app.add_option("--engine-ports,--IPController.engine_ports", options.engine_ports,
                 "Pool of ports for engines, used before --ports")
      ->group("Network");
  app.add_option("--ssh,--IPController.ssh_server", options.client_ssh,
                 "[user@]server[:port] through which clients reach this machine")
      ->group("Network");
  app.add_option("--enginessh,--IPController.engine_ssh_server", options.engine_ssh,
                 "[user@]server[:port] through which engines reach this machine")
      ->group("Network");
  app.add_option("--packer,--Session.packer", options.pack, "json or msgpack [json]")
      ->check(CLI::IsMember({"json", "msgpack"}))
      ->group("Network");
  app.add_option("--ping,--HeartMonitor.period", ping, "Milliseconds between heartbeats [3000]")
      ->check(CLI::Range(1, 3'600'000))
      ->group("Heartbeats");
  app.add_option("--HeartMonitor.max_heartmonitor_misses", options.max_heartbeat_misses,
                 "Heartbeats an engine may miss in a row [10]")
      ->check(CLI::Range(1, 1'000'000))
      ->group("Heartbeats");
  app.add_option("--scheme,--TaskScheduler.scheme_name", options.scheme,
                 "leastload, lru, plainrandom, weighted or twobin [leastload]")
      ->check(CLI::IsMember({"leastload", "lru", "plainrandom", "weighted", "twobin"}))
      ->group("Tasks");
  app.add_option("--hwm,--TaskScheduler.hwm", options.hwm,
                 "Tasks at a time on an engine of a load-balanced view, 0 for no limit [1]")
      ->check(CLI::NonNegativeNumber)
      ->group("Tasks");
  app.add_flag_callback(
         "--nodb", [&] { options.store = "none"; }, "Keep no results [default]")
      ->group("Results");
  app.add_flag_callback(
         "--dictdb", [&] { options.store = "dict"; }, "Not built yet: warns")
      ->group("Results");
  app.add_flag_callback(
         "--sqlitedb", [&] { options.store = "sqlite"; }, "Not built yet: warns")
      ->group("Results");
  app.add_option("--log-level", options.log_level, "debug, info, warn, err, or Python's number")
      ->group("Log");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return {options, app.exit(error)};
  }
  options.profile_dir = find_profile_dir(profile_dir, ipython_dir, profile);
  options.client_interface = interface_of(transport, client_ip.empty() ? ip : client_ip);
  options.engine_interface = interface_of(transport, engine_ip.empty() ? ip : engine_ip);
  if (options.location.empty()) options.location = host_name();
  options.ping_period = std::chrono::milliseconds(ping);
  options.log_level = log_level_name(options.log_level);
  return {options, std::nullopt};
}

}  // namespace ddipp::controller
