#include "engine/options.hpp"

#include <CLI/CLI.hpp>

#include "launcher/profile.hpp"

namespace ddipp::engine {
namespace {

// Anything of the form --Class.trait=value configures IPython inside; other leftovers are mistakes.
std::string unknown_option(const std::vector<std::string>& leftovers) {
  for (const auto& argument : leftovers) {
    const bool trait = argument.starts_with("--") && argument.size() > 2 &&
                       std::isupper(static_cast<unsigned char>(argument[2])) != 0 &&
                       argument.find('.') < argument.find('=') &&
                       argument.find('=') != std::string::npos;
    if (!trait) return argument;
  }
  return {};
}

}  // namespace

ParsedOptions parse_options(int argc, char** argv) {
  Options options;
  std::string profile, profile_dir, ipython_dir, file;
  std::string cluster_id = environment("IPP_CLUSTER_ID");
  int id = -1;

  CLI::App app{"An engine of a ddipp cluster: hosts your Python and runs what clients send."};
  app.name("dipengine");
  app.set_help_all_flag("--help-all", "As --help");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_version_flag("--version", DDIPP_VERSION);
  app.allow_extras();
  app.add_option("--python", options.python,
                 "Interpreter to host [$VIRTUAL_ENV, $CONDA_PREFIX, the one beside dipengine, "
                 "python3]")
      ->group("Python");
  app.add_option("-c,--IPEngine.startup_command", options.startup_command, "Run this code at start")
      ->group("Python");
  app.add_option("-s,--IPEngine.startup_script", options.startup_script, "Run this file at start")
      ->group("Python");
  app.add_option("--file,--IPEngine.url_file", file,
                 "Connection file [ipcontroller-engine.json of the profile]")
      ->group("Where");
  app.add_option("--profile", profile, "IPython profile by name [default]")->group("Where");
  app.add_option("--profile-dir,--ProfileDir.location", profile_dir, "IPython profile by folder")
      ->group("Where");
  app.add_option("--ipython-dir", ipython_dir, "IPython's folder [$IPYTHONDIR or ~/.ipython]")
      ->group("Where");
  app.add_option("--cluster-id,--IPEngine.cluster_id", cluster_id,
                 "Name of the cluster [$IPP_CLUSTER_ID]")
      ->group("Where");
  app.add_option("--location,--IPEngine.location", options.location,
                 "Name or address of the controller's machine [the connection file's]")
      ->group("Network");
  app.add_option("--id,--IPEngine.id", id, "Ask for this engine id")
      ->check(CLI::NonNegativeNumber)
      ->group("Network");
  app.add_option("--timeout,--IPEngine.timeout", options.registration_timeout_s,
                 "Seconds to wait for the controller's answer [30]")
      ->check(CLI::PositiveNumber)
      ->group("Network");
  app.add_option("--IPEngine.wait_for_url_file", options.wait_for_file_s,
                 "Seconds to wait for the connection file [10]")
      ->group("Network");
  app.add_option("--controller-patience", options.controller_patience_s,
                 "Seconds without a connection to the controller before the engine exits [30]")
      ->check(CLI::PositiveNumber)
      ->group("Network");
  app.add_option("--IPEngine.max_heartbeat_misses", options.max_heartbeat_misses,
                 "Heartbeats of the controller that may be missed in a row, 0 for any number [50]")
      ->check(CLI::NonNegativeNumber)
      ->group("Network");
  app.add_option("--log-level", options.log_level, "debug, info, warn, err, or Python's number")
      ->group("Log");
  app.footer("--Class.trait=value options are passed on to IPython.");

  try {
    app.parse(argc, argv);
    options.python_arguments = app.remaining();
    const std::string unknown = unknown_option(options.python_arguments);
    if (!unknown.empty()) throw CLI::ExtrasError("dipengine", {unknown});
  } catch (const CLI::ParseError& error) {
    return {options, app.exit(error)};
  }
  options.profile_dir = find_profile_dir(profile_dir, ipython_dir, profile);
  options.connection_file = file.empty()
                                ? connection_file_path(options.profile_dir, cluster_id, "engine")
                                : std::filesystem::path(file);
  if (id >= 0) options.id = id;
  options.log_level = log_level_name(options.log_level);
  return {options, std::nullopt};
}

}  // namespace ddipp::engine
