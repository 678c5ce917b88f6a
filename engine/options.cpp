#include "engine/options.hpp"

#include <fcntl.h>
#include <system_error>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "common/command_line.hpp"
#include "common/profile.hpp"

namespace ddipp::engine {
namespace {

using Arguments = std::vector<std::string>;

const Arguments kClasses{"IPEngine", "ProfileDir", "BaseParallelApplication"};

// What can't be written to Options as it is parsed.
struct Raw {
  std::string profile, profile_dir, ipython_dir, file, work_dir, restart = "never", ignored;
  std::string cluster_id = environment("IPP_CLUSTER_ID");
  int id = -1;
  bool log_to_file = false;
  bool debug = false, quiet = false;
};

void add_python(CLI::App& app, Options& options) {
  app.option_defaults()->group("Python");
  app.add_option("--python", options.python,
                 "Interpreter to host [$VIRTUAL_ENV, $CONDA_PREFIX, the one beside dipengine, "
                 "python3]");
  app.add_option("-c,--IPEngine.startup_command", options.startup_command,
                 "Run this code at start");
  app.add_option("-s,--IPEngine.startup_script", options.startup_script, "Run this file at start");
  app.add_option("--nursery", options.nursery,
                 "Fork Python from the warm process at this socket, which is started if it is not "
                 "there; its folder is to be private");
  app.add_option("--preload", options.preload, "Modules that it is to import before, with commas")
      ->delimiter(',')
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_flag("--mpi,--IPEngine.use_mpi{true}", options.use_mpi,
               "Started by mpiexec: initialize mpi4py, ask for the rank as id");
}

void add_places(CLI::App& app, Raw& raw) {
  app.option_defaults()->group("Where");
  app.add_option("--file,--IPEngine.url_file", raw.file,
                 "Connection file [ipcontroller-engine.json of the profile]");
  app.add_option("--profile", raw.profile, "IPython profile by name [default]");
  app.add_option("--profile-dir,--ProfileDir.location", raw.profile_dir,
                 "IPython profile by folder");
  app.add_option("--ipython-dir", raw.ipython_dir, "IPython's folder [$IPYTHONDIR or ~/.ipython]");
  app.add_option("--cluster-id,--IPEngine.cluster_id,--BaseParallelApplication.cluster_id",
                 raw.cluster_id, "Name of the cluster [$IPP_CLUSTER_ID]");
  app.add_option("--work-dir,--BaseParallelApplication.work_dir", raw.work_dir,
                 "Change to this folder");
}

void add_network(CLI::App& app, Options& options, Raw& raw) {
  app.option_defaults()->group("Network");
  app.add_option("--location,--IPEngine.location", options.location,
                 "Name or address of the controller's machine [the connection file's]");
  app.add_option("--ssh,--IPEngine.sshserver", options.ssh_server,
                 "Reach the controller through this ssh server, user@host:port [the connection "
                 "file's]");
  app.add_option("--sshkey,--IPEngine.sshkey", options.ssh_key, "Private key file for it");
  app.add_option("--id,--IPEngine.id", raw.id, "Ask for this engine id")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--timeout,--IPEngine.timeout", options.registration_timeout_s,
                 "Seconds to wait for the controller's answer [30]")
      ->check(CLI::PositiveNumber);
  app.add_option("--IPEngine.wait_for_url_file", options.wait_for_file_s,
                 "Seconds to wait for a connection file that is whole [10]");
  app.add_option("--controller-patience", options.controller_patience_s,
                 "Seconds without a connection to the controller before the engine exits [30]")
      ->check(CLI::PositiveNumber);
  app.add_option("--IPEngine.max_heartbeat_misses", options.max_heartbeat_misses,
                 "Heartbeats of the controller that may be missed in a row, 0 for any number [50]")
      ->check(CLI::NonNegativeNumber);
}

void add_operation(CLI::App& app, Options& options, Raw& raw) {
  app.option_defaults()->group("Operation");
  app.add_option("--restart", raw.restart,
                 "Start Python again under the same id: never, on-failure or always [never]");
  app.add_option("--output-limit", options.output_limit_mib,
                 "MiB that one request may print; of more the end is shown [16]")
      ->check(CLI::PositiveNumber);
  app.add_option("--log-level,--Application.log_level", options.log_level,
                 "debug, info, warn, err, or Python's number");
  app.add_flag("--debug", raw.debug, "As --log-level=debug");
  app.add_flag("--quiet", raw.quiet, "As --log-level=critical");
  app.add_flag("--log-to-file,--BaseParallelApplication.log_to_file{true}", raw.log_to_file,
               "Write the log to log/ipengine-<pid>.log of the profile");
  // ipengine has it; our supervisor is always there.
  app.add_option("--IPEngine.enable_nanny", raw.ignored)->group("");
}

// Before the first thread: the log is the standard error of all that follows.
void log_to_file(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  const auto path = folder / ("ipengine-" + std::to_string(::getpid()) + ".log");
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0 || ::dup2(file, 2) < 0) {
    throw std::filesystem::filesystem_error("can't write the log", path,
                                            std::error_code(errno, std::generic_category()));
  }
  ::close(file);
}

void finish(Options& options, Raw& raw) {
  if (raw.cluster_id.find('/') != std::string::npos) {
    throw CLI::ValidationError("--cluster-id", "a cluster's name can't hold '/'");
  }
  options.profile_dir = find_profile_dir(raw.profile_dir, raw.ipython_dir, raw.profile);
  options.connection_file =
      raw.file.empty() ? connection_file_path(options.profile_dir, raw.cluster_id, "engine")
                       : std::filesystem::path(raw.file);
  if (raw.id >= 0) options.id = raw.id;
  const auto restart = parse_restart(raw.restart);
  if (!restart) throw CLI::ValidationError(restart.error(), CLI::ExitCodes::ValidationError);
  options.restart = *restart;
  if (raw.debug) options.log_level = "debug";
  if (raw.quiet) options.log_level = "critical";
  options.log_level = log_level_name(options.log_level);
  options.log_to_file = raw.log_to_file;
  options.work_dir = raw.work_dir;
}

// Throws CLI::ParseError, whose meaning `app` knows.
Options parse(CLI::App& app, const Arguments& arguments) {
  Options options;
  Raw raw;
  app.name("dipengine");
  app.set_help_all_flag("--help-all", "As --help");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_version_flag("--version", DDIPP_VERSION);
  add_python(app, options);
  add_places(app, raw);
  add_network(app, options, raw);
  add_operation(app, options, raw);
  app.footer(
      "--Class.trait=value options are passed on to IPython. Options may also stand in\n"
      "ipengine_config.json of the profile: {\"IPEngine\": {\"timeout\": 60}}");
  parse_command_line(app, arguments, true);
  finish(options, raw);
  options.python_arguments = app.remaining();
  return options;
}

}  // namespace

ParsedOptions parse_options(int argc, char** argv) {
  const Arguments own(argv + 1, argv + argc);
  const char* about = "An engine of a ddipp cluster: hosts your Python and runs what clients send.";
  CLI::App first{about};
  CLI::App second{about};
  CLI::App* app = &first;
  try {
    Options options = parse(first, own);
    // The profile is known now; what its file says comes before the command line, which wins.
    auto all = read_config_file(options.profile_dir / "ipengine_config.json", kClasses);
    if (!all.empty()) {
      all.insert(all.end(), own.begin(), own.end());
      app = &second;
      options = parse(second, all);
    }
    if (!options.work_dir.empty()) std::filesystem::current_path(options.work_dir);
    if (options.log_to_file) log_to_file(options.profile_dir / "log");
    return {options, std::nullopt};
  } catch (const CLI::ParseError& error) {
    return {{}, app->exit(error)};
  } catch (const std::filesystem::filesystem_error& error) {
    return {{}, app->exit(CLI::ParseError(error.what(), 1))};
  }
}

}  // namespace ddipp::engine
