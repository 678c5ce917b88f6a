// dipcluster: starts a controller and its engines, here, through ssh, mpiexec or Slurm, and looks
// after them.
//
// "start" is two processes: the launcher, whose children the controller and the engines are, and
// the guardian above it, which clears up should the launcher be killed. Should the guardian be
// killed, the launcher ends in order.
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "common/command_line.hpp"
#include "common/profile.hpp"
#include "launcher/cluster.hpp"
#include "launcher/cluster_file.hpp"
#include "launcher/cluster_state.hpp"
#include "launcher/manage.hpp"
#include "protocol/net/unique_fd.hpp"

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using namespace ddipp::launcher;

// How a start went, from the launcher to the command that waits for it: "ok" or what failed.
using Report = std::function<void(const std::string&)>;

sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  return signals;
}

void show_progress(unsigned ready, unsigned wanted) {
  static unsigned shown = ~0U;
  if (ready == shown || ::isatty(STDERR_FILENO) == 0) return;
  shown = ready;
  std::fprintf(stderr, "\rdipcluster: %u of %u engines%s", ready, wanted,
               ready == wanted ? "\n" : "");
}

int launch(const Options& options, bool with_controller, const Report& report) {
  const sigset_t signals = stop_signals();
  const ddipp::net::UniqueFd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  Cluster cluster(options, show_progress);
  std::string why = cluster.start(with_controller);
  report(why);
  if (why.empty()) {
    why = cluster.supervise(signal_fd.get());
    if (!why.empty()) complain(why);
  }
  cluster.stop();
  cluster.remove_files();
  return why.empty() ? 0 : 1;
}

void wait_until_gone(const fs::path& path, std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (fs::exists(path) && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(20ms);
  }
}

// What a launcher that was killed could not do any more; its children end by themselves.
void clear_up(const Options& options) {
  std::error_code ignored;
  fs::remove(cluster_file_path(options.profile_dir, options.cluster_id), ignored);
  if (keeps_connection_files(options)) return;
  for (const char* kind : {"client", "engine"}) {
    const auto path = ddipp::connection_file_path(options.profile_dir, options.cluster_id, kind);
    wait_until_gone(path, 5s);  // the controller removes it
    fs::remove(path, ignored);
  }
}

// The guardian: passes signals on to the launcher and outlives it.
int guard(const Options& options, const Report& report) {
  const fs::path file = state_file(options.profile_dir, options.cluster_id);
  if (read_living(file)) {
    report("a cluster of this name runs already; stop it with: dipcluster stop");
    return 1;
  }
  sigset_t signals = stop_signals();
  sigaddset(&signals, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  auto state = own_state(options.cluster_id);
  state.command_line = options.command_line;
  if (const auto written = write_state(file, state); !written) {
    report(written.error());
    return 1;
  }
  const pid_t guardian = ::getpid();
  const pid_t launcher = ::fork();
  if (launcher == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != guardian) ::_exit(1);
    ::setpgid(0, 0);  // a Ctrl-C reaches it through the guardian, once
    const int code = launch(options, true, report);
    std::error_code ignored;
    if (::getppid() != guardian) fs::remove(file, ignored);
    std::fflush(nullptr);
    ::_exit(code);
  }
  int status = 0;
  while (::waitpid(launcher, &status, WNOHANG) == 0) {
    int signal = 0;
    ::sigwait(&signals, &signal);
    if (signal != SIGCHLD) ::kill(launcher, SIGTERM);
  }
  std::error_code ignored;
  if (WIFSIGNALED(status)) clear_up(options);
  fs::remove(file, ignored);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int start_in_front(const Options& options) {
  return guard(options, [](const std::string& why) {
    if (!why.empty()) {
      complain(why);
      return;
    }
    std::printf("dipcluster: the engines are ready; stop with Ctrl-C\n");
    std::fflush(stdout);
  });
}

// A daemon must not hold the terminal or pipe of the command that started it.
void redirect_to_log(const Options& options) {
  std::error_code ignored;
  fs::create_directories(options.profile_dir / "log", ignored);
  const std::string id = options.cluster_id.empty() ? "" : "-" + options.cluster_id;
  const int log = ::open((options.profile_dir / "log" / ("dipcluster" + id + ".log")).c_str(),
                         O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, 0);
  ::dup2(log >= 0 ? log : null, 1);
  ::dup2(log >= 0 ? log : null, 2);
}

// The outcome comes back through a pipe, so that the command returns when the engines are ready.
int start_in_background(const Options& options) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return complain("can't make a pipe");
  const pid_t child = ::fork();
  if (child < 0) return complain("can't fork");
  if (child == 0) {
    ::close(ends[0]);
    ::setsid();
    redirect_to_log(options);
    const int code = guard(options, [&](const std::string& why) {
      const std::string text = why.empty() ? "ok" : why;
      [[maybe_unused]] const auto written = ::write(ends[1], text.data(), text.size());
      ::close(ends[1]);
    });
    ::_exit(code);
  }
  ::close(ends[1]);
  std::string text;
  char part[4096];
  for (ssize_t got = 0; (got = ::read(ends[0], part, sizeof part)) > 0;) {
    text.append(part, static_cast<std::size_t>(got));
    if (text == "ok") break;  // the guardian holds the other end too
  }
  if (text != "ok") {
    int status = 0;
    ::waitpid(child, &status, 0);  // nothing is left when the command returns
    return complain(text.empty() ? "the launcher ended at its start" : text);
  }
  std::printf("dipcluster: the engines are ready; stop with: dipcluster stop\n");
  return 0;
}

// More engines for a controller that runs already.
int add_engines(const Options& options) {
  const sigset_t signals = stop_signals();
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  return launch(options, false, [](const std::string& why) {
    if (!why.empty()) {
      complain(why);
      return;
    }
    std::printf("dipcluster: the engines are ready; stop them with Ctrl-C\n");
    std::fflush(stdout);
  });
}

int restart(const Options& options) {
  const auto state = read_living(state_file(options.profile_dir, options.cluster_id));
  if (!state) return complain("no cluster that dipcluster has started runs here under this name");
  if (const int code = stop_cluster(options); code != 0) return code;
  std::vector<char*> words;
  for (const auto& word : state->command_line) words.push_back(const_cast<char*>(word.c_str()));
  char daemonize[] = "--daemonize";
  words.push_back(daemonize);
  words.push_back(nullptr);
  ::execv(fs::read_symlink("/proc/self/exe").c_str(), words.data());  // under its own name
  return complain("can't start it again");
}

struct Raw {
  std::string profile, profile_dir, way = "local", hosts, ip, location, signal = "INT";
  std::string time, partition, gres;  // of Slurm
  unsigned engines = 0;
  std::vector<int> targets;
  bool json = false;
  std::string image = "ddipp", name = "ddipp";
  unsigned gpus = 0;
};

void add_engine_options(CLI::App& command, Options& options, Raw& raw) {
  command
      .add_option("-n,--n", raw.engines,
                  "Number of engines [GPUs, else cores; of the allocation of Slurm]")
      ->check(CLI::Range(1U, 65536U));
  command.add_option("--engines", raw.way,
                     "How to launch them: local, ssh, mpi, slurm or sbatch [local]");
  command.add_option("--hosts", raw.hosts,
                     "With ssh: hosts with a number of engines or their GPUs, node1:4,node2[0,1]");
  command.add_option("--remote-engine", options.remote_program,
                     "With ssh: dipengine on the hosts [the same path as here]");
  command.add_option("--time", raw.time, "With slurm or sbatch: time limit of the job");
  command.add_option("--partition", raw.partition, "With slurm or sbatch: where it runs");
  command.add_option("--gres", raw.gres, "With slurm or sbatch: what a node needs, gpu:4");
  command.add_option("--launch-args", options.way_args,
                     "An option for ssh, mpiexec, srun or sbatch (--time=60); may be "
                     "repeated");
  command.add_option("--engine-args", options.engine_args,
                     "An option for dipengine; may be repeated");
  command.add_option("--timeout", options.timeout_s, "Seconds to wait for the engines [60]");
}

void finish(Options& options, const Raw& raw) {
  options.profile_dir =
      fs::absolute(ddipp::find_profile_dir(raw.profile_dir, "", raw.profile)).lexically_normal();
  if (options.cluster_id.find('/') != std::string::npos) {
    throw CLI::ValidationError("--cluster-id", "a cluster's name can't hold '/'");
  }
  try {  // the files that clusters are found by are JSON
    (void)ddipp::protocol::Json(options.profile_dir.string()).dump();
  } catch (const ddipp::protocol::Json::exception&) {
    throw CLI::ValidationError("the profile's folder has a name that is not UTF-8");
  }
  const auto way = way_from_name(raw.way);
  if (!way) throw CLI::ValidationError(way.error());
  options.way = *way;
  if (raw.engines > 0) options.engines = raw.engines;
  if (options.way == Way::ssh) {
    const auto hosts = parse_hosts(raw.hosts);
    if (!hosts) throw CLI::ValidationError(hosts.error());
    options.hosts = *hosts;
  }
  const bool slurm = options.way == Way::slurm || options.way == Way::sbatch;
  for (const auto& [name, value] : std::initializer_list<std::pair<const char*, std::string>>{
           {"--time=", raw.time}, {"--partition=", raw.partition}, {"--gres=", raw.gres}}) {
    if (value.empty()) continue;
    if (!slurm) throw CLI::ValidationError(std::string(name) + " is for --engines=slurm or sbatch");
    options.way_args.push_back(name + value);
  }
  if (!raw.ip.empty()) options.controller_args.push_back("--ip=" + raw.ip);
  if (!raw.location.empty()) options.controller_args.push_back("--location=" + raw.location);
}

int run(CLI::App& app, int argc, char** argv) {
  Options options;
  Raw raw;
  options.cluster_id = ddipp::environment("IPP_CLUSTER_ID");
  app.set_version_flag("--version", DDIPP_VERSION);
  app.require_subcommand(1);
  const auto add = [&](const char* name, const char* about) {
    CLI::App* command = app.add_subcommand(name, about);
    command->add_option("--profile", raw.profile, "IPython profile by name [default]");
    command->add_option("--profile-dir", raw.profile_dir, "IPython profile by folder");
    command->add_option("--cluster-id", options.cluster_id, "Name of the cluster");
    return command;
  };
  CLI::App* start = add("start", "Start a controller and engines");
  add_engine_options(*start, options, raw);
  start->add_flag("--daemonize", options.daemonize, "Return when the engines are ready");
  start->add_option("--ip", raw.ip,
                    "Address that the controller listens on [127.0.0.1, '*' "
                    "unless the engines are local]");
  start->add_option("--location", raw.location, "Name of this machine for other hosts");
  start->add_option("--controller-args", options.controller_args,
                    "An option for dipcontroller; may be repeated");
  CLI::App* engines = add("engines", "Start engines for a controller that runs");
  add_engine_options(*engines, options, raw);
  CLI::App* stop = add("stop", "Stop a cluster");
  CLI::App* again = add("restart", "Stop a cluster and start it as it was started");
  CLI::App* list = add("list", "List the clusters of a profile");
  CLI::App* status = add("status", "Show the engines of a cluster");
  for (auto* command : {list, status}) command->add_flag("--json", raw.json, "As JSON");
  CLI::App* signal = add("signal", "Send a signal to engines");
  signal->add_option("signal", raw.signal, "INT, TERM, … or a number [INT]");
  signal->add_option("--targets", raw.targets, "Engines [all]")->delimiter(',');
  CLI::App* cleaning = add("clean", "Remove files of clusters that run no more");
  CLI::App* kubernetes = add("kubernetes", "Print a manifest for kubectl apply");
  kubernetes->add_option("-n,--n", raw.engines, "Number of engines [1]");
  kubernetes->add_option("--image", raw.image, "Container image with ddipp [ddipp]");
  kubernetes->add_option("--name", raw.name, "Name of the objects [ddipp]");
  kubernetes->add_option("--gpus", raw.gpus, "GPUs of an engine [0]");
  if (argc > 1 && argv[1][0] != '-') {
    std::vector<std::string> commands;
    for (const auto* command : app.get_subcommands({})) commands.push_back(command->get_name());
    if (std::ranges::find(commands, argv[1]) == commands.end()) {
      const auto meant = ddipp::nearest(argv[1], commands);
      return complain("there is no command '" + std::string(argv[1]) + "'" +
                      (meant.empty() ? "; see --help" : "; do you mean '" + meant + "'?"));
    }
  }
  app.parse(argc, argv);
  finish(options, raw);
  options.command_line.assign(argv, argv + argc);

  if (*stop) return stop_cluster(options);
  if (*again) return restart(options);
  if (*list) return list_clusters(options, raw.json);
  if (*status) return show_status(options, raw.json);
  if (*signal) return signal_engines(options, raw.signal, raw.targets);
  if (*cleaning) return clean(options);
  if (*engines) return add_engines(options);
  if (*kubernetes) {
    std::printf(
        "%s",
        kubernetes_manifest(raw.name, raw.image, std::max(1U, raw.engines), raw.gpus).c_str());
    return 0;
  }
  return options.daemonize ? start_in_background(options) : start_in_front(options);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Starts and manages clusters of dipcontroller and dipengine."};
  app.name("dipcluster");
  try {
    return run(app, argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return complain(std::string(error.what()) + "; see --help");
  } catch (const std::exception& error) {
    return complain(error.what());
  }
}
