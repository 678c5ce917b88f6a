// Commands about clusters that run: stop, list, status, signal, clean. Each prints and returns an
// exit code.
#pragma once

#include <string>
#include <vector>

#include "launcher/options.hpp"

namespace ddipp::launcher {

int complain(const std::string& line);

int stop_cluster(const Options& options);
int list_clusters(const Options& options, bool as_json);
int show_status(const Options& options, bool as_json);
// `name`: INT, SIGINT or 2. `engines`: ids, all when empty.
int signal_engines(const Options& options, const std::string& name,
                   const std::vector<int>& engines);
// Removes the files of clusters that do not run any more.
int clean(const Options& options);

}  // namespace ddipp::launcher
