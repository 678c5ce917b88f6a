#include "engine/supervisor/supervisor.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <new>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>

#include "engine/supervisor/oom_counter.hpp"

namespace ddipp::engine {

using namespace std::chrono_literals;

namespace {

// More than the worker gives its Python to end.
constexpr auto kStopPatience = 8s;
constexpr auto kGroupPatience = 300ms;
constexpr auto kSilentLook = 20ms;
constexpr std::size_t kFaultText = 8192;  // of an interpreter's crash report

void log_line(const std::string& text) { std::fprintf(stderr, "dipengine: %s\n", text.c_str()); }

std::system_error failure(const char* what) {
  return std::system_error(errno, std::generic_category(), what);
}

int make_shared_state() {
  const int fd = ::memfd_create("dipengine-state", MFD_CLOEXEC);
  if (fd < 0) throw failure("memfd_create");
  if (::ftruncate(fd, sizeof(SharedState)) != 0) throw failure("ftruncate");
  return fd;
}

// A read end for both processes, a write end for the worker alone.
int make_pipe(net::UniqueFd& read_end) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw failure("pipe");
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  read_end.reset(ends[0]);
  return ends[1];
}

std::string drain(int fd) {
  constexpr std::size_t limit = 1024 * 1024;
  std::string text;
  std::array<char, 4096> buffer{};
  while (text.size() < limit) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

timespec to_timespec(std::chrono::nanoseconds duration) {
  if (duration < 0ns) duration = 0ns;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(duration);
  return {seconds.count(), (duration - seconds).count()};
}

}  // namespace

Supervisor::Supervisor(SupervisorHooks hooks, RestartWhen restart, std::optional<int> id,
                       WorkerSource* source)
    : hooks_(std::move(hooks)),
      policy_(restart),
      id_(id),
      source_(source),
      state_(make_shared_state()),
      shared_(map_shared_state(state_.get())) {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  std::signal(SIGCHLD, SIG_DFL);
  sigemptyset(&watched_);
  sigaddset(&watched_, SIGCHLD);
  sigaddset(&watched_, SIGIO);  // the worker's source has something to say
  for (const int number : {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM}) {
    struct sigaction action {};
    ::sigaction(number, nullptr, &action);
    if (action.sa_handler != SIG_IGN) sigaddset(&watched_, number);  // nohup ignores SIGHUP
  }
  sigprocmask(SIG_BLOCK, &watched_, &original_);
  warden_.start();
}

int Supervisor::run() {
  while (true) {
    auto start = hooks_.prepare(id_);
    if (!start) {
      log_line(start.error());
      return 1;
    }
    start_ = std::move(*start);
    start_worker();
    const WorkerEnd end = watch();
    report(end);
    clear_group();
    if (shared_->engine_id >= 0) id_ = shared_->engine_id;
    WorkerFacts known = facts();
    const auto delay = policy_.next_start(end, known, started_, Clock::now());
    if (!delay || !pause(*delay)) return exit_code_of(end);
    log_line("starting the engine again" + (id_ ? " with id " + std::to_string(*id_) : ""));
  }
}

WorkerFacts Supervisor::facts() const {
  return {.asked_to_stop = stop_asked_ || (shared_->stopping && !shared_->gave_up),
          .asked_to_restart = shared_->restart_asked && !stop_asked_,
          .registered = shared_->registered,
          .served = shared_->served,
          .gave_up = shared_->gave_up};
}

// --- start ------------------------------------------------------------------------------------

void Supervisor::start_worker() {
  new (shared_) SharedState;
  WorkerSide side{state_.get()};
  side.stdout_write = make_pipe(stdout_);
  side.stderr_write = make_pipe(stderr_);
  side.fault_write = make_pipe(fault_);
  side.stdout_read = stdout_.get();
  side.stderr_read = stderr_.get();
  oom_kills_ = oom_kills();
  kill_at_.reset();
  started_ = Clock::now();
  const auto given = source_ == nullptr ? std::nullopt : source_->start(start_, side);
  worker_ = given ? *given : fork_worker(side);
  warden_.watch(worker_);
  for (const int fd : {side.stdout_write, side.stderr_write, side.fault_write}) ::close(fd);
}

pid_t Supervisor::fork_worker(const WorkerSide& side) {
  const pid_t worker = ::fork();
  if (worker < 0) throw failure("fork");
  if (worker == 0) become_worker(side);
  ::setpgid(worker, worker);
  return worker;
}

void Supervisor::become_worker(const WorkerSide& side) {
  const pid_t supervisor = ::getppid();
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != supervisor) ::_exit(1);  // it died in between
  sigprocmask(SIG_SETMASK, &original_, nullptr);
  std::exit(hooks_.work(start_, side));
}

// --- while it runs ----------------------------------------------------------------------------

WorkerEnd Supervisor::watch() {
  while (true) {
    siginfo_t info{};
    int number = 0;
    if (const auto look = next_look()) {
      const timespec left = to_timespec(*look - Clock::now());
      number = ::sigtimedwait(&watched_, &info, &left);
      if (kill_at_ && Clock::now() >= *kill_at_) {
        ::kill(-worker_, SIGKILL);
        kill_at_ = Clock::now() + 1s;
      }
    } else {
      number = ::sigwaitinfo(&watched_, &info);
    }
    if (number > 0 && number != SIGCHLD && number != SIGIO) {
      on_signal(number);
    } else if (const auto end = reap()) {
      return *end;
    }
  }
}

std::optional<Supervisor::Clock::time_point> Supervisor::next_look() const {
  if (source_ == nullptr || !source_->is_silent()) return kill_at_;
  const auto soon = Clock::now() + kSilentLook;
  return kill_at_ && *kill_at_ < soon ? *kill_at_ : soon;
}

void Supervisor::on_signal(int number) {
  const bool ends = number == SIGTERM || number == SIGHUP || number == SIGQUIT;
  if (ends && !stop_asked_) {
    stop_asked_ = true;
    kill_at_ = Clock::now() + kStopPatience;
  }
  ::kill(worker_, number);
  if (ends) ::kill(worker_, SIGCONT);  // a stopped one has to hear of it too
}

// Children of a dead worker come to the supervisor, which is their reaper.
std::optional<WorkerEnd> Supervisor::reap() {
  std::optional<WorkerEnd> end;
  rusage usage{};
  int status = 0;
  for (pid_t pid = 0; (pid = ::wait4(-1, &status, WNOHANG, &usage)) > 0;) {
    if (pid == worker_) {
      end = WorkerEnd{status, oom_kills() > oom_kills_, usage.ru_maxrss};
    } else if (pid == warden_.pid()) {
      warden_.start();
    }
  }
  if (!end && source_ != nullptr) {
    end = source_->ended();
    if (end) end->out_of_memory = oom_kills() > oom_kills_;
  }
  return end;
}

// --- after its end ----------------------------------------------------------------------------

void Supervisor::report(const WorkerEnd& end) {
  const std::string output = last_output();
  const std::string why = describe(end);
  const bool expected = shared_->stopping || stop_asked_;
  const int id = shared_->engine_id;
  // One that exits before it has an id has said why itself, and nobody counts on it.
  if (!expected && (id >= 0 || WIFSIGNALED(end.status))) {
    log_line((id >= 0 ? "engine " + std::to_string(id) : "the engine") + " has ended: " + why);
  }
  if (id < 0 || shared_->said_goodbye) return;
  hooks_.notify(start_, id, why, output);
}

std::string Supervisor::last_output() {
  const std::string unread = drain(stdout_.get()) + drain(stderr_.get());
  const std::string fault = drain(fault_.get());
  for (const auto& text : {unread, fault}) {
    [[maybe_unused]] const auto written = ::write(2, text.data(), text.size());
  }
  shared_->last_words.append(unread);
  return shared_->last_words.text() + fault.substr(0, kFaultText);
}

// What the worker has started and left: asked first, killed then.
void Supervisor::clear_group() {
  const auto empty = [this] {
    while (::waitpid(-worker_, nullptr, WNOHANG) > 0) {
    }
    return ::kill(-worker_, 0) != 0;
  };
  const auto deadline = Clock::now() + kGroupPatience;
  if (!empty()) {
    ::kill(-worker_, SIGTERM);
    ::kill(-worker_, SIGCONT);
    while (!empty() && Clock::now() < deadline) ::usleep(5'000);
    ::kill(-worker_, SIGKILL);
    while (!empty() && Clock::now() < deadline + 2s) ::usleep(1'000);
  }
  warden_.watch(0);
}

bool Supervisor::pause(std::chrono::milliseconds delay) {
  const auto end = Clock::now() + delay;
  for (auto left = Clock::duration(delay); left >= 0s; left = end - Clock::now()) {
    const timespec timeout = to_timespec(left);
    const int number = ::sigtimedwait(&watched_, nullptr, &timeout);
    if (number == SIGTERM || number == SIGHUP || number == SIGQUIT || number == SIGINT)
      return false;
    if (number == SIGCHLD) reap();
    if (number < 0 && errno == EAGAIN) break;
  }
  return true;
}

}  // namespace ddipp::engine
