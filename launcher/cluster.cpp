#include "launcher/cluster.hpp"

#include <csignal>
#include <deque>
#include <fcntl.h>
#include <fstream>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include <boost/process/extend.hpp>

#include "common/profile.hpp"
#include "launcher/cluster_file.hpp"
#include "launcher/gpus.hpp"
#include "launcher/hub_client.hpp"

namespace ddipp::launcher {
namespace {

namespace fs = std::filesystem;
namespace process = boost::process;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kLogLines = 10;

// A child of ours ends with us, even when we are killed; its own children are its group.
struct DiesWithParent : process::extend::handler {
  pid_t parent = ::getpid();

  template <class Executor>
  void on_exec_setup(Executor&) const {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(1);  // it has died meanwhile
    ::setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
  }
};

std::string end_of_file(const fs::path& path) {
  std::ifstream file(path);
  std::deque<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(line);
    if (lines.size() > kLogLines) lines.pop_front();
  }
  std::string text;
  for (const auto& line : lines) text += "\n  " + line;
  return text;
}

}  // namespace

Cluster::Cluster(const Options& options, std::function<void(unsigned, unsigned)> progress)
    : options_(options), progress_(std::move(progress)) {
  if (options_.way == Way::ssh) {
    for (const auto& host : options_.hosts) wanted_ += host.engines;
  } else {
    const bool in_job = options_.way == Way::slurm;
    wanted_ = options_.engines.value_or(in_job ? slurm_engine_count() : default_engine_count());
  }
}

fs::path Cluster::connection_file(const std::string& kind) const {
  return connection_file_path(options_.profile_dir, options_.cluster_id, kind);
}

fs::path Cluster::log_path(const std::string& what) const {
  const std::string id = options_.cluster_id.empty() ? "" : "-" + options_.cluster_id;
  return options_.profile_dir / "log" / (what + id + ".log");
}

void Cluster::spawn(const std::string& what, const PlannedProcess& planned,
                    const std::string& input) {
  auto child = std::make_unique<Child>();
  child->what = what;
  child->log = log_path(what);
  std::error_code ignored;
  fs::create_directories(child->log.parent_path(), ignored);
  const auto program = process::search_path(planned.command.front()).empty()
                           ? boost::filesystem::path(planned.command.front())
                           : process::search_path(planned.command.front());
  const std::vector<std::string> arguments(planned.command.begin() + 1, planned.command.end());
  ::umask(077);  // logs may hold what users print
  const auto start = [&](auto&& standard_input) {
    return process::child(program, process::args(arguments), DiesWithParent{},
                          (process::std_out & process::std_err) > child->log.string(),
                          process::std_in < standard_input);
  };
  if (planned.needs_connection) {
    child->input = std::make_unique<process::opstream>();
    for (const int end :
         {child->input->pipe().native_source(), child->input->pipe().native_sink()}) {
      ::fcntl(end, F_SETFD, FD_CLOEXEC);  // or processes that come later would hold it open
    }
    child->process = start(*child->input);
    *child->input << input << std::endl;
  } else {
    child->process = start(process::null);
  }
  children_.push_back(std::move(child));
}

std::string Cluster::spawn_controller() {
  const fs::path client_file = connection_file("client");
  std::error_code ignored;
  if (!keeps_connection_files(options_)) fs::remove(client_file, ignored);
  const fs::path beside = fs::read_symlink("/proc/self/exe").parent_path() / "dipcontroller";
  PlannedProcess controller{"controller",
                            {beside.string(), "--profile-dir", options_.profile_dir.string()}};
  auto& command = controller.command;
  if (!options_.cluster_id.empty()) {
    command.insert(command.end(), {"--cluster-id", options_.cluster_id});
  }
  if (options_.way != Way::local) command.emplace_back("--ip=*");
  command.insert(command.end(), options_.controller_args.begin(), options_.controller_args.end());
  spawn("ipcontroller", controller, "");
  const auto why = wait_until([&] { return fs::exists(client_file); });
  return why.empty() ? why : "the controller did not start: " + why;
}

std::string Cluster::spawn_engines() {
  EngineWish wish;
  wish.way = options_.way;
  wish.count = wanted_;
  wish.hosts = options_.hosts;
  wish.engine_args = options_.engine_args;
  wish.way_args = options_.way_args;
  wish.engine_program = fs::read_symlink("/proc/self/exe").parent_path() / "dipengine";
  wish.remote_program =
      options_.remote_program.empty() ? wish.engine_program.string() : options_.remote_program;
  wish.profile_dir = options_.profile_dir;
  wish.cluster_id = options_.cluster_id;
  const auto connection = protocol::read_json_file(connection_file("engine"));
  if (!connection) return connection.error();
  for (const auto& planned : plan_engines(wish)) {
    spawn("ipengine-" + planned.name, planned, connection->dump());
  }
  return {};
}

std::string Cluster::start(bool with_controller) {
  with_controller_ = with_controller;
  try {
    std::size_t before = 0;
    if (with_controller) {
      if (auto why = spawn_controller(); !why.empty()) return why;
    } else {
      const auto count = count_engines(connection_file("client"));
      if (!count) return count.error();
      before = *count;
    }
    if (auto why = spawn_engines(); !why.empty()) return why;
    if (with_controller) write_cluster_file();
    auto why = wait_for_engines(before);
    return why.empty() ? why : "the engines did not start: " + why;
  } catch (const process::process_error& error) {
    return std::string("can't start a process: ") + error.what();
  }
}

template <class Condition>
std::string Cluster::wait_until(Condition condition) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(options_.timeout_s);
  while (!condition()) {
    for (auto& child : children_) {
      if (!child->process.running()) return describe_end(*child);
    }
    if (Clock::now() > deadline) {
      return "not within " + std::to_string(static_cast<int>(options_.timeout_s)) +
             " s; the end of the last log, " + children_.back()->log.string() + ":" +
             end_of_file(children_.back()->log);
    }
    std::this_thread::sleep_for(10ms);
  }
  return {};
}

std::string Cluster::describe_end(Child& child) const {
  const int code = child.process.exit_code();
  const int status = child.process.native_exit_code();
  const std::string how = WIFSIGNALED(status)
                              ? "was killed by signal " + std::to_string(WTERMSIG(status))
                              : "ended with code " + std::to_string(code);
  return child.what + " " + how + "; the end of its log, " + child.log.string() + ":" +
         end_of_file(child.log);
}

std::string Cluster::wait_for_engines(std::size_t before) {
  const auto json = protocol::read_json_file(connection_file("client"));
  if (!json) return json.error();
  const auto connection = protocol::parse_client_connection(*json);
  if (!connection) return connection.error();
  auto hub = HubClient::connect(*connection);
  if (!hub) return hub.error();
  return wait_until([&] {
    const auto engines = (*hub)->engines(1s);
    if (!engines) return false;
    const auto ready = static_cast<unsigned>(engines->size() - std::min(before, engines->size()));
    progress_(std::min(ready, wanted_), wanted_);
    return ready >= wanted_;
  });
}

void Cluster::write_cluster_file() const {
  ClusterFile file;
  file.cluster_id = options_.cluster_id;
  file.profile_dir = options_.profile_dir;
  file.engine_count = wanted_;
  file.controller = {"controller", children_.front()->process.id(), children_.front()->log};
  if (options_.way == Way::mpi) file.engine_class = "ddipp-mpi";
  for (std::size_t i = 1; i < children_.size(); ++i) {
    file.engines.push_back({std::to_string(i - 1), children_[i]->process.id(), children_[i]->log});
  }
  const auto written = protocol::write_json_file(
      cluster_file_path(options_.profile_dir, options_.cluster_id), to_json(file));
  if (!written) std::fprintf(stderr, "dipcluster: %s\n", written.error().c_str());
}

std::string Cluster::supervise(int signal_fd) {
  while (true) {
    pollfd item{signal_fd, POLLIN, 0};
    if (::poll(&item, 1, 200) > 0) return {};
    if (with_controller_ && !children_.front()->process.running()) {
      return describe_end(*children_.front());
    }
    if (!with_controller_ && !fs::exists(connection_file("engine"))) {
      return "the controller has ended";
    }
    for (auto& child : children_) child->process.running();  // reaps those that have ended
  }
}

void Cluster::stop() {
  for (auto& child : children_) {
    if (child->input) child->input->pipe().close();  // the other end of ssh
    if (child->process.running()) ::kill(child->process.id(), SIGTERM);
  }
  const auto deadline = Clock::now() + 8s;
  for (auto& child : children_) {
    while (child->process.running() && Clock::now() < deadline) std::this_thread::sleep_for(10ms);
    if (child->process.running()) ::kill(-child->process.id(), SIGKILL);
    std::error_code ignored;
    child->process.wait(ignored);
  }
  children_.clear();
}

void Cluster::remove_files() const {
  std::error_code ignored;
  if (!with_controller_) return;
  fs::remove(cluster_file_path(options_.profile_dir, options_.cluster_id), ignored);
  if (keeps_connection_files(options_)) return;
  for (const char* kind : {"client", "engine"}) {  // of a controller that was killed
    fs::remove(connection_file(kind), ignored);
  }
}

}  // namespace ddipp::launcher
