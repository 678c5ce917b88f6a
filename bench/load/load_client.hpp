// A client that writes pre-built frames to a raw socket and counts what comes back.
#pragma once

#include <string>
#include <vector>

#include "load/connection.hpp"

namespace ddipp::load {

struct Load {
  std::string channel = "mux";  // mux, task or broadcast
  int requests = 100'000;
  int window = 200;  // unanswered at a time
  double rate = 0;   // requests a second, 0 for as fast as the window allows
  std::string type = "apply_request";
  std::string content = "{}";             // JSON
  std::size_t buffer_bytes = 64;          // of the one buffer of a request
  std::vector<std::string> buffer_files;  // instead: each a buffer
  bool wait_for_hub = true;               // until it has every result
  std::vector<std::string> engines;       // uuids of a bare relay's engines; else the hub is asked
};

// Seconds; latencies in microseconds.
struct Outcome {
  double answered_s = 0;  // until the last reply
  double stored_s = 0;    // until the hub has every result
  std::vector<double> latencies_us;
};

Outcome run_load(const Connection& connection, const Load& load);

}  // namespace ddipp::load
