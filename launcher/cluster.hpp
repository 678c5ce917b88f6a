// A controller and engines, as processes of this one.
#pragma once

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/process.hpp>

#include "launcher/options.hpp"

namespace ddipp::launcher {

class Cluster {
 public:
  // `progress` is told how many engines are ready.
  Cluster(const Options& options, std::function<void(unsigned ready, unsigned wanted)> progress);
  ~Cluster() { stop(); }
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  // "" or what failed, with the end of the log of the process that did. `with_controller` is false
  // for more engines of a controller that runs already.
  std::string start(bool with_controller);

  // Returns "" after a stop signal, else why the cluster has ended.
  std::string supervise(int signal_fd);

  void stop();
  // What ipyparallel, clients and later commands find.
  void remove_files() const;

  unsigned engine_count() const { return wanted_; }

 private:
  struct Child {
    std::string what;
    boost::process::child process;
    std::filesystem::path log;
    std::unique_ptr<boost::process::opstream> input;  // open as long as it may live
  };

  std::filesystem::path connection_file(const std::string& kind) const;
  std::filesystem::path log_path(const std::string& what) const;
  void spawn(const std::string& what, const PlannedProcess& planned, const std::string& input);
  std::string spawn_controller();
  std::string spawn_engines();
  template <class Condition>
  std::string wait_until(Condition condition);
  std::string wait_for_engines(std::size_t before);
  std::string describe_end(Child& child) const;
  void write_cluster_file() const;

  Options options_;
  std::function<void(unsigned, unsigned)> progress_;
  unsigned wanted_ = 0;
  bool with_controller_ = true;
  std::vector<std::unique_ptr<Child>> children_;
};

}  // namespace ddipp::launcher
