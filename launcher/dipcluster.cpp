// dipcluster: starts, lists and stops a controller and its engines on this machine.
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <memory>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <CLI/CLI.hpp>
#include <boost/process.hpp>
#include <boost/process/extend.hpp>

#include "launcher/cluster_state.hpp"
#include "launcher/hub_client.hpp"
#include "launcher/profile.hpp"
#include "protocol/net/unique_fd.hpp"

namespace {

namespace fs = std::filesystem;
namespace process = boost::process;
using namespace std::chrono_literals;
using namespace ddipp::launcher;
using Clock = std::chrono::steady_clock;

struct Options {
  fs::path profile_dir;
  std::string cluster_id;
  unsigned engines = std::max(1U, std::thread::hardware_concurrency());
  bool daemonize = false;
  double timeout_s = 60;
  std::vector<std::string> controller_args;
  std::vector<std::string> engine_args;
};

int complain(const std::string& line) {
  std::fprintf(stderr, "dipcluster: %s\n", line.c_str());
  return 1;
}

// A child of ours ends with us, even when we are killed.
struct DiesWithParent : process::extend::handler {
  template <class Executor>
  void on_exec_setup(Executor&) const {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
  }
};

class Cluster {
 public:
  explicit Cluster(const Options& options) : options_(options) {}
  ~Cluster() { stop(); }
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  // "" or one line saying what failed.
  std::string start() {
    const fs::path client_file = connection_file("client");
    std::error_code ignored;
    fs::remove(client_file, ignored);
    spawn("dipcontroller", options_.controller_args);
    if (const auto why = wait_until([&] { return fs::exists(client_file); }); !why.empty()) {
      return "the controller did not start: " + why;
    }
    for (unsigned i = 0; i < options_.engines; ++i) {
      auto args = options_.engine_args;
      args.insert(args.end(), {"--id", std::to_string(i)});
      spawn("dipengine", args);
    }
    return wait_for_engines(client_file);
  }

  // Returns when a process ended or a stop signal came.
  std::string supervise(int signal_fd) {
    while (true) {
      pollfd item{signal_fd, POLLIN, 0};
      if (::poll(&item, 1, 200) > 0) return {};
      if (!children_.front().running()) return "the controller ended";
    }
  }

  void stop() {
    for (auto& child : children_) {
      if (child.running()) ::kill(child.id(), SIGTERM);
    }
    const auto deadline = Clock::now() + 8s;
    for (auto& child : children_) {
      while (child.running() && Clock::now() < deadline) std::this_thread::sleep_for(10ms);
      std::error_code ignored;
      if (child.running()) child.terminate(ignored);
      child.wait(ignored);
    }
    children_.clear();
  }

 private:
  fs::path connection_file(const std::string& kind) const {
    return ddipp::connection_file_path(options_.profile_dir, options_.cluster_id, kind);
  }

  void spawn(const std::string& program, std::vector<std::string> args) {
    const fs::path beside = fs::read_symlink("/proc/self/exe").parent_path() / program;
    args.insert(args.end(), {"--profile-dir", options_.profile_dir.string()});
    if (!options_.cluster_id.empty())
      args.insert(args.end(), {"--cluster-id", options_.cluster_id});
    children_.emplace_back(beside.string(), process::args(args), DiesWithParent{});
  }

  template <class Condition>
  std::string wait_until(Condition condition) {
    const auto deadline = Clock::now() + std::chrono::duration<double>(options_.timeout_s);
    while (!condition()) {
      for (auto& child : children_) {
        if (!child.running())
          return "a process ended with code " + std::to_string(child.exit_code());
      }
      if (Clock::now() > deadline) {
        return "not within " + std::to_string(static_cast<int>(options_.timeout_s)) + " s";
      }
      std::this_thread::sleep_for(10ms);
    }
    return {};
  }

  std::string wait_for_engines(const fs::path& client_file) {
    const auto json = ddipp::protocol::read_json_file(client_file);
    if (!json) return json.error();
    const auto connection = ddipp::protocol::parse_client_connection(*json);
    if (!connection) return connection.error();
    auto hub = HubClient::connect(*connection);
    if (!hub) return hub.error();
    const auto why = wait_until([&] {
      const auto count = (*hub)->engine_count(1s);
      return count && *count >= options_.engines;
    });
    return why.empty() ? why : "the engines did not start: " + why;
  }

  Options options_;
  std::vector<process::child> children_;
};

ddipp::net::UniqueFd take_stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  return ddipp::net::UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC));
}

int run_cluster(const Options& options, const std::function<void(const std::string&)>& report) {
  const fs::path file = state_file(options.profile_dir, options.cluster_id);
  if (read_living(file)) {
    report("a cluster of this name runs already; stop it with dipcluster stop");
    return 1;
  }
  const auto signal_fd = take_stop_signals();
  Cluster cluster(options);
  std::string why = cluster.start();
  if (why.empty()) {
    const auto written = write_state(file, own_state(options.cluster_id));
    if (!written) why = written.error();
  }
  if (!why.empty()) {
    cluster.stop();  // nothing is left when the command returns
    report(why);
    return 1;
  }
  report(why);
  const std::string ended = cluster.supervise(signal_fd.get());
  cluster.stop();
  std::error_code ignored;
  fs::remove(file, ignored);
  return ended.empty() ? 0 : complain(ended);
}

int start_in_front(const Options& options) {
  return run_cluster(options, [&](const std::string& why) {
    if (!why.empty()) {
      complain(why);
      return;
    }
    std::printf("dipcluster: %u engines ready; stop with Ctrl-C\n", options.engines);
    std::fflush(stdout);
  });
}

// A daemon must not hold the terminal or pipe of the command that started it.
void redirect_to_log(const Options& options) {
  std::error_code ignored;
  fs::create_directories(options.profile_dir / "log", ignored);
  const std::string name = "dipcluster-" + options.cluster_id + ".log";
  const int log = ::open((options.profile_dir / "log" / name).c_str(),
                         O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, 0);
  ::dup2(log >= 0 ? log : null, 1);
  ::dup2(log >= 0 ? log : null, 2);
}

// The outcome comes back through a pipe, so that the command returns when the engines are ready.
int start_in_background(const Options& options) {
  int ends[2];
  if (::pipe(ends) != 0) return complain("can't make a pipe");
  const pid_t child = ::fork();
  if (child < 0) return complain("can't fork");
  if (child == 0) {
    ::close(ends[0]);
    ::setsid();
    redirect_to_log(options);
    const int code = run_cluster(options, [&](const std::string& why) {
      const std::string text = why.empty() ? "ok" : why;
      [[maybe_unused]] const auto written = ::write(ends[1], text.data(), text.size());
      ::close(ends[1]);
    });
    ::_exit(code);
  }
  ::close(ends[1]);
  std::string text(4096, '\0');
  const ssize_t got = ::read(ends[0], text.data(), text.size());
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  if (text != "ok") return complain(text.empty() ? "the launcher ended at its start" : text);
  std::printf("dipcluster: %u engines ready; stop with: dipcluster stop\n", options.engines);
  return 0;
}

int stop(const Options& options) {
  const fs::path file = state_file(options.profile_dir, options.cluster_id);
  const auto state = read_living(file);
  if (!state) return complain("no such cluster runs in " + options.profile_dir.string());
  ::kill(state->launcher, SIGTERM);
  const auto deadline = Clock::now() + 15s;
  while (read_living(file) && Clock::now() < deadline) std::this_thread::sleep_for(20ms);
  if (read_living(file)) return complain("the launcher does not end");
  std::printf("dipcluster: stopped\n");
  return 0;
}

int list(const Options& options) {
  std::printf("%-20s %s\n", "CLUSTER", "LAUNCHER PID");
  for (const auto& state : living_clusters(options.profile_dir)) {
    std::printf("%-20s %d\n", state.cluster_id.empty() ? "(default)" : state.cluster_id.c_str(),
                static_cast<int>(state.launcher));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  std::string profile, profile_dir;
  CLI::App app{"Starts, lists and stops a ddipp cluster on this machine."};
  app.name("dipcluster");
  app.set_version_flag("--version", DDIPP_VERSION);
  app.require_subcommand(1);
  const auto add_common = [&](CLI::App* command) {
    command->add_option("--profile", profile, "IPython profile by name [default]");
    command->add_option("--profile-dir", profile_dir, "IPython profile by folder");
    command->add_option("--cluster-id", options.cluster_id, "Name of the cluster");
  };
  CLI::App* start_command = app.add_subcommand("start", "Start a controller and engines");
  add_common(start_command);
  start_command->add_option("-n,--n", options.engines, "Number of engines [cores]")
      ->check(CLI::PositiveNumber);
  start_command->add_flag("--daemonize", options.daemonize, "Return when the engines are ready");
  start_command->add_option("--timeout", options.timeout_s, "Seconds to wait for the engines [60]");
  start_command->add_option("--controller-args", options.controller_args,
                            "An option for dipcontroller; may be repeated");
  start_command->add_option("--engine-args", options.engine_args,
                            "An option for dipengine; may be repeated");
  CLI::App* stop_command = app.add_subcommand("stop", "Stop a cluster");
  add_common(stop_command);
  CLI::App* list_command = app.add_subcommand("list", "List the clusters of a profile");
  add_common(list_command);
  CLI11_PARSE(app, argc, argv);

  options.profile_dir = ddipp::find_profile_dir(profile_dir, "", profile);
  if (*stop_command) return stop(options);
  if (*list_command) return list(options);
  return options.daemonize ? start_in_background(options) : start_in_front(options);
}
