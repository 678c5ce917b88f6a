// What leaves Python: replies, output, and the text behind descriptors 1 and 2.
#include <unistd.h>

#include "engine/host/engine_io.hpp"
#include "protocol/content.hpp"
#include "protocol/fields.hpp"

namespace ddipp::engine {

using protocol::Json;

void EngineIo::on_outbox() {
  for (Outgoing& outgoing : shared_.outbox.take_all()) {
    std::visit([this](auto& what) { handle(what); }, outgoing);
  }
}

void EngineIo::handle(Post& post) {
  // Everything that was written before this message goes out before it.
  on_captured();
  send_streams();
  if (!id_ || is_interrupted_by_the_end(post)) return;
  if (post.channel != ChannelName::iopub) {
    shared_.state.served = true;
    for (const auto& rest : output_limit_.finish(post.parent_header)) send_stream(rest);
  } else if (OutputHistory::keeps(post.msg_type)) {
    history_.add(post.parent_header, post.msg_type, post.content);
  }
  zmq::socket_t& socket = post.channel == ChannelName::shell     ? sockets_.shell
                          : post.channel == ChannelName::control ? sockets_.control
                                                                 : sockets_.iopub;
  send(socket, post.identities, post.header.empty() ? packed_header(post.msg_type) : post.header,
       post.parent_header, post.metadata, post.content, std::move(post.buffers));
}

// The controller answers for it when the worker is gone, and says why it ended. A request is
// answered once.
bool EngineIo::is_interrupted_by_the_end(const Post& post) const {
  if (!hard_exit_at_ || post.channel != ChannelName::shell) return false;
  std::string error;
  protocol::read_texts(post.content, session_.packing(), {{"ename", error}});
  return error == "KeyboardInterrupt";
}

void EngineIo::handle(StreamWrite& write) {
  streams_.write(write.name, write.parent_header, write.text, net::Clock::now());
}

void EngineIo::handle(const Register&) { send_registration(); }

void EngineIo::handle(const Flush&) {
  on_captured();
  send_streams();
}

void EngineIo::handle(const PythonReady&) {
  lifecycle_.on_python_ready(net::Clock::now());
  answer_held_ping();
}

void EngineIo::handle(const Aborted& aborted) {
  for (const Request& request : aborted.requests) answer_aborted(request);
}

void EngineIo::handle(const Finish&) {
  handle(Flush{});
  shared_.outbox.close();
  if (id_) say_goodbye();
  reactor_.stop();
}

// The hub takes it for an end: nothing may follow.
void EngineIo::say_goodbye() {
  if (!shutdown_reply_.empty()) {
    send(sockets_.iopub, {topic("shutdown")}, packed_header(protocol::ShutdownReply::type),
         shutdown_asked_by_, protocol::pack(Json{{"engine", options_.uuid}}, session_.packing()),
         shutdown_reply_);
  }
  send(sockets_.registrar, {}, packed_header(protocol::UnregistrationRequest::type), empty_object_,
       empty_object_,
       protocol::pack(protocol::UnregistrationRequest{*id_, {}, {}, {}}, session_.packing()));
  shared_.state.said_goodbye = true;
}

void EngineIo::on_captured() {
  on_captured(shared_.capture.stdout_fd(), "stdout", stdout_rest_);
  on_captured(shared_.capture.stderr_fd(), "stderr", stderr_rest_);
}

void EngineIo::on_captured(int fd, const char* name, std::string& incomplete) {
  std::string text = OutputCapture::drain(fd);
  if (text.empty()) return;
  shared_.state.last_words.append(text);
  if (!id_) {  // nobody to send it to yet
    [[maybe_unused]] const auto written =
        ::write(shared_.capture.original_stderr(), text.data(), text.size());
    return;
  }
  if (!incomplete.empty()) text.insert(0, std::exchange(incomplete, {}));
  const std::size_t rest = incomplete_utf8(text);
  incomplete = text.substr(text.size() - rest);
  text.resize(text.size() - rest);
  streams_.write(name, shared_.capture.parent_header(), text, net::Clock::now());
}

void EngineIo::send_streams() {
  for (StreamText& stream : streams_.take(net::Clock::now())) {
    for (const StreamText& admitted : output_limit_.admit(std::move(stream))) send_stream(admitted);
  }
}

void EngineIo::send_stream(const StreamText& stream) {
  const std::string content =
      protocol::pack(protocol::StreamContent{stream.name, stream.text}, session_.packing());
  const std::string& parent = stream.parent_header.empty() ? empty_object_ : stream.parent_header;
  history_.add(parent, protocol::StreamContent::type, content);
  send(sockets_.iopub, {topic(stream.name)}, packed_header(protocol::StreamContent::type), parent,
       protocol::pack(Json{{"engine", options_.uuid}}, session_.packing()), content);
}

// --- as a Jupyter kernel ----------------------------------------------------------------------

void EngineIo::handle(const BindKernel& bind) {
  try {
    bind.answer->set_value(bind_kernel());
  } catch (const zmq::error_t& error) {
    bind.answer->set_value(Failure{std::string("can't listen as a kernel: ") + error.what()});
  }
}

// The sockets that reach the controller listen as well: replies find their way by identity.
BoundPorts EngineIo::bind_kernel() {
  const auto ports = sockets_.bind_kernel(options_.uuid + "-kernel");
  reactor_.add(sockets_.heartbeat,
               [this](net::Multipart& message) { net::send(sockets_.heartbeat, message); });
  return ports;
}

}  // namespace ddipp::engine
