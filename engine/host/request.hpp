// What travels between the io thread and the Python thread.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include <zmq.hpp>

#include "protocol/result.hpp"

namespace ddipp::engine {

enum class ChannelName { shell = 0, control = 1, iopub = 2 };

// A verified request. The parts are still packed; Python unpacks what it needs.
struct Request {
  ChannelName channel = ChannelName::shell;
  std::vector<std::string> identities;
  std::string msg_type;
  std::string msg_id;
  zmq::message_t header;
  zmq::message_t parent_header;
  zmq::message_t metadata;
  zmq::message_t content;
  std::vector<zmq::message_t> buffers;
};

// A message from Python, still unsigned.
struct Post {
  ChannelName channel = ChannelName::iopub;
  std::vector<std::string> identities;
  std::string msg_type;
  std::string header;  // packed; "" lets the io thread make one of msg_type
  std::string parent_header;
  std::string metadata;
  std::string content;
  std::vector<zmq::message_t> buffers;
};

struct StreamWrite {
  const char* name = "stdout";
  std::string parent_header;
  std::string text;
};

// TCP ports on 127.0.0.1 at which the engine listens as a Jupyter kernel.
struct BoundPorts {
  int shell = 0, iopub = 0, standard_input = 0, control = 0, heartbeat = 0;
};

struct BindKernel {
  std::shared_ptr<std::promise<Result<BoundPorts>>> answer;
};

// Python has imported what it needs.
struct Register {};
struct Flush {};
struct PythonReady {};

// Requests that will not run and get "aborted" as their answer.
struct Aborted {
  std::vector<Request> requests;
};

// Python is done: send what is left, unregister and end the io thread.
struct Finish {};

using Outgoing =
    std::variant<Post, StreamWrite, BindKernel, Register, Flush, PythonReady, Aborted, Finish>;

}  // namespace ddipp::engine
