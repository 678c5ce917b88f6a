// ddipp_load: the raw load of `make bench`. `engines` and `relay` run until they are killed, `run`
// prints one line of JSON.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <sys/resource.h>

#include <CLI/CLI.hpp>

#include "load/load_client.hpp"
#include "load/relay.hpp"
#include "load/simulated_engines.hpp"

namespace {

double quantile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))];
}

}  // namespace

int main(int argc, char** argv) {
  using namespace ddipp::load;
  CLI::App app{"Raw load for a controller"};
  app.require_subcommand(1);
  std::string folder;
  int count = 1;
  Load load;
  auto* relay = app.add_subcommand("relay", "Relay between two router sockets");
  auto* engines = app.add_subcommand("engines", "Run simulated engines");
  auto* run = app.add_subcommand("run", "Send requests");
  for (auto* command : {relay, engines, run}) {
    command->add_option("folder", folder, "Folder of the connection files")->required();
  }
  engines->add_option("--count", count);
  run->add_option("--channel", load.channel)->check(CLI::IsMember({"mux", "task", "broadcast"}));
  run->add_option("--requests", load.requests);
  run->add_option("--window", load.window);
  run->add_option("--rate", load.rate);
  run->add_option("--bytes", load.buffer_bytes);
  run->add_option("--type", load.type);
  run->add_option("--content", load.content, "JSON");
  run->add_option("--buffer-file", load.buffer_files, "A file whose bytes are a buffer");
  run->add_option("--engine", load.engines, "Uuid of an engine of the bare relay");
  run->add_flag("!--answered-only", load.wait_for_hub, "Don't wait for the hub");
  CLI11_PARSE(app, argc, argv);
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  try {
    if (*relay) run_relay(folder);
    if (*engines) run_engines(read_connection(folder), count);
    const Outcome outcome = run_load(read_connection(folder), load);
    std::printf("{\"answered_s\": %.6f, \"stored_s\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
                outcome.answered_s, outcome.stored_s, quantile(outcome.latencies_us, 0.5),
                quantile(outcome.latencies_us, 0.99));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ddipp_load: %s\n", error.what());
    return 1;
  }
  return 0;
}
