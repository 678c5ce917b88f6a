#include "engine/host/python_module.hpp"

#include <atomic>
#include <exception>
#include <pthread.h>
#include <unistd.h>

#include "engine/host/frame.hpp"
#include "engine/host/host.hpp"

namespace ddipp::engine {
namespace {

ModuleContext* context = nullptr;  // from start() on
PyObject* frame_type = nullptr;

// A forked child (a DataLoader worker) has the module but no io thread: its output goes to the
// inherited descriptors, whose pipes the parent reads.
std::atomic<bool> forked{false};

PyObject* none() {
  Py_INCREF(Py_None);
  return Py_None;
}

bool to_string(PyObject* bytes, std::string& target) {
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(bytes, &data, &size) != 0) return false;
  target.assign(data, static_cast<std::size_t>(size));
  return true;
}

PyObject* to_bytes(const void* data, std::size_t size) {
  return PyBytes_FromStringAndSize(static_cast<const char*>(data), static_cast<Py_ssize_t>(size));
}

PyObject* to_bytes(const zmq::message_t& frame) { return to_bytes(frame.data(), frame.size()); }

// --- start ------------------------------------------------------------------------------------

PyObject* start(PyObject*, PyObject* args) {
  int options_fd = -1, state_fd = -1;
  if (PyArg_ParseTuple(args, "ii", &options_fd, &state_fd) == 0) return nullptr;
  try {
    context = &start_host(options_fd, state_fd);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  ::pthread_atfork(nullptr, nullptr, [] { forked = true; });
  // Python makes such calls, as it does its signal handlers, before the next line that it runs.
  context->inbox.set_python_call([] {
    return Py_AddPendingCall(
               [](void*) {
                 if (!forked) context->inbox.interrupt_taken();
                 return 0;
               },
               nullptr) == 0;
  });
  Py_AtExit(finish_host);  // for a Python half that could not start
  return none();
}

PyObject* options(PyObject*, PyObject*) {
  return PyUnicode_FromStringAndSize(context->options.data(),
                                     static_cast<Py_ssize_t>(context->options.size()));
}

PyObject* wait_registered(PyObject*, PyObject*) {
  context->outbox.push(Register{});
  Result<int> outcome = [] {
    const GilReleased released;
    return context->registration.wait();
  }();
  if (outcome) return PyLong_FromLong(*outcome);
  PyErr_SetString(PyExc_ConnectionError, outcome.error().c_str());
  return nullptr;
}

PyObject* start_capture(PyObject*, PyObject*) {
  context->capture.start();
  return none();
}

PyObject* begin_request(PyObject*, PyObject* args) {
  PyObject* header = nullptr;
  std::string packed;
  if (PyArg_ParseTuple(args, "O", &header) == 0 || !to_string(header, packed)) return nullptr;
  context->capture.set_parent_header(std::move(packed));
  return none();
}

PyObject* end_request(PyObject*, PyObject*) {
  {
    const GilReleased released;
    context->capture.wait_until_drained(std::chrono::milliseconds(500));
  }
  return none();
}

PyObject* ready(PyObject*, PyObject*) {
  context->outbox.push(PythonReady{});
  return none();
}

PyObject* log_line(PyObject*, PyObject* args) {
  int level = 20;
  const char* text = nullptr;
  if (PyArg_ParseTuple(args, "is", &level, &text) == 0) return nullptr;
  context->log.log(level >= 40   ? spdlog::level::err
                   : level >= 30 ? spdlog::level::warn
                   : level >= 20 ? spdlog::level::info
                                 : spdlog::level::debug,
                   "{}", text);
  return none();
}

PyObject* fault_fd(PyObject*, PyObject*) { return PyLong_FromLong(context->fault_fd); }

PyObject* bind_kernel(PyObject*, PyObject*) {
  auto answer = std::make_shared<std::promise<Result<BoundPorts>>>();
  context->outbox.push(BindKernel{answer});
  const Result<BoundPorts> ports = [&answer] {
    const GilReleased released;
    return answer->get_future().get();
  }();
  if (!ports) {
    PyErr_SetString(PyExc_OSError, ports.error().c_str());
    return nullptr;
  }
  return Py_BuildValue("(iiiii)", ports->shell, ports->iopub, ports->standard_input, ports->control,
                       ports->heartbeat);
}

// --- requests ---------------------------------------------------------------------------------

PyObject* inbox_fd(PyObject*, PyObject*) { return PyLong_FromLong(context->inbox.event_fd()); }

PyObject* clear_inbox_event(PyObject*, PyObject*) {
  context->inbox.clear_event();
  return none();
}

PyObject* identities_list(const std::vector<std::string>& identities) {
  PyRef list(PyList_New(0));
  for (const auto& identity : identities) {
    const PyRef item(to_bytes(identity.data(), identity.size()));
    if (!list || !item || PyList_Append(list.get(), item.get()) != 0) return nullptr;
  }
  return list.release();
}

PyObject* buffers_list(std::vector<zmq::message_t>& buffers) {
  PyRef list(PyList_New(0));
  for (auto& buffer : buffers) {
    const PyRef frame(wrap_frame(frame_type, std::move(buffer)));
    if (!list || !frame) return nullptr;
    const PyRef view(PyMemoryView_FromObject(frame.get()));
    if (!view || PyList_Append(list.get(), view.get()) != 0) return nullptr;
  }
  return list.release();
}

PyObject* take_from(Inbox& inbox) {
  auto request = inbox.take();
  if (!request) return none();
  PyRef identities(identities_list(request->identities));
  PyRef header(to_bytes(request->header));
  PyRef parent(to_bytes(request->parent_header));
  PyRef metadata(to_bytes(request->metadata));
  PyRef content(to_bytes(request->content));
  PyRef buffers(buffers_list(request->buffers));
  if (!identities || !header || !parent || !metadata || !content || !buffers) return nullptr;
  return Py_BuildValue("(iNNNNNN)", static_cast<int>(request->channel), identities.release(),
                       header.release(), parent.release(), metadata.release(), content.release(),
                       buffers.release());
}

PyObject* take(PyObject*, PyObject*) {
  release_sent_buffers();
  return take_from(context->inbox);
}

PyObject* debug_fd(PyObject*, PyObject*) {
  return PyLong_FromLong(context->debug_inbox.event_fd());
}

PyObject* take_debug(PyObject*, PyObject*) {
  context->debug_inbox.clear_event();
  return take_from(context->debug_inbox);
}

PyObject* stopping(PyObject*, PyObject*) { return PyBool_FromLong(context->inbox.stopping()); }

PyObject* set_running(PyObject*, PyObject* args) {
  int running = 0;
  if (PyArg_ParseTuple(args, "p", &running) == 0) return nullptr;
  if (running != 0) gloo_waits::forget_failures();
  context->inbox.set_running(running != 0);
  return none();
}

PyObject* set_title(PyObject*, PyObject* args) {
  const char* title = nullptr;
  if (PyArg_ParseTuple(args, "s", &title) == 0) return nullptr;
  context->inbox.set_title(title);
  return none();
}

PyObject* abort_queued(PyObject*, PyObject*) {
  // Taken out here and now, before this thread takes the next one.
  context->outbox.push(Aborted{context->inbox.remove_type("execute_request")});
  return none();
}

// --- the process group ------------------------------------------------------------------------

PyObject* begin_generation(PyObject*, PyObject* args) {
  int generation = 0;
  if (PyArg_ParseTuple(args, "i", &generation) == 0) return nullptr;
  context->group_guard.begin(generation);
  return none();
}

PyObject* guard_sockets(PyObject*, PyObject* args) {
  PyObject* list = nullptr;
  if (PyArg_ParseTuple(args, "O", &list) == 0) return nullptr;
  const Py_ssize_t count = PySequence_Size(list);
  if (count < 0) return nullptr;
  std::vector<int> fds;
  for (Py_ssize_t i = 0; i < count; ++i) {
    const PyRef item(PySequence_GetItem(list, i));
    const long fd = item ? PyLong_AsLong(item.get()) : -1;
    if (PyErr_Occurred() != nullptr) return nullptr;
    fds.push_back(static_cast<int>(fd));
  }
  context->group_guard.add_sockets(fds);
  return none();
}

PyObject* guard_gloo(PyObject*, PyObject*) {
  const std::string problem = gloo_waits::install();
  return PyUnicode_FromStringAndSize(problem.data(), static_cast<Py_ssize_t>(problem.size()));
}

PyObject* allow_waits(PyObject*, PyObject*) {
  gloo_waits::allow();
  return none();
}

PyObject* group_state(PyObject*, PyObject*) {
  PyRef texts(PyList_New(0));
  for (const auto& text : gloo_waits::failures()) {
    const PyRef item(
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
    if (!texts || !item || PyList_Append(texts.get(), item.get()) != 0) return nullptr;
  }
  const auto& guard = context->group_guard;
  return Py_BuildValue("(NNN)", PyBool_FromLong(guard.was_cut()),
                       PyBool_FromLong(guard.is_broken()), texts.release());
}

PyObject* set_torch_plugin(PyObject*, PyObject* args) {
  unsigned long long abort = 0, report = 0;
  if (PyArg_ParseTuple(args, "KK", &abort, &report) == 0) return nullptr;
  context->group_guard.set_plugin(reinterpret_cast<GroupGuard::Abort>(abort),
                                  reinterpret_cast<GroupGuard::Report>(report));
  return none();
}

PyObject* cut_sockets(PyObject*, PyObject* args) {
  int generation = 0;
  if (PyArg_ParseTuple(args, "i", &generation) == 0) return nullptr;
  return PyLong_FromSize_t(context->group_guard.cut(generation));
}

PyObject* cut_event(PyObject*, PyObject*) {
  return PyLong_FromLong(context->group_guard.cut_event());
}

PyObject* last_collective(PyObject*, PyObject*) {
  const auto report = context->group_guard.report();
  if (!report || report->name[0] == '\0') return none();
  return Py_BuildValue("(sK)", report->name, static_cast<unsigned long long>(report->number));
}

PyObject* stack_channel(PyObject*, PyObject*) {
  return Py_BuildValue("(ii)", StackSampler::signal_number(), context->stack_sampler.write_fd());
}

PyObject* arm_stack(PyObject*, PyObject*) {
  context->stack_sampler.arm();
  return none();
}

// --- replies and output -----------------------------------------------------------------------

bool read_identities(PyObject* list, std::vector<std::string>& target) {
  const Py_ssize_t count = PySequence_Size(list);
  if (count < 0) return false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    const PyRef item(PySequence_GetItem(list, i));
    if (!item || !to_string(item.get(), target.emplace_back())) return false;
  }
  return true;
}

bool read_buffers(PyObject* list, std::vector<zmq::message_t>& target) {
  const Py_ssize_t count = PySequence_Size(list);
  if (count < 0) return false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    const PyRef item(PySequence_GetItem(list, i));
    if (!item || !unwrap_buffer(item.get(), target.emplace_back())) return false;
  }
  return true;
}

PyObject* post(PyObject*, PyObject* args) {
  int channel = 0;
  const char* msg_type = nullptr;
  PyObject *identities = nullptr, *header = nullptr, *parent = nullptr, *metadata = nullptr,
           *content = nullptr, *buffers = nullptr;
  if (PyArg_ParseTuple(args, "iOsOOOOO", &channel, &identities, &msg_type, &header, &parent,
                       &metadata, &content, &buffers) == 0) {
    return nullptr;
  }
  if (forked) return none();
  Post message;
  message.channel = static_cast<ChannelName>(channel);
  message.msg_type = msg_type;
  if (!read_identities(identities, message.identities) || !to_string(header, message.header) ||
      !to_string(parent, message.parent_header) || !to_string(metadata, message.metadata) ||
      !to_string(content, message.content) || !read_buffers(buffers, message.buffers)) {
    return nullptr;
  }
  // An interrupt may come between a handler's reply and its end, and the failure is told then. A
  // second reply would break the client, so there is none.
  static std::string replied_to;
  if (message.channel != ChannelName::iopub) {
    if (message.parent_header == replied_to) return none();
    replied_to = message.parent_header;
  }
  context->outbox.push(std::move(message));
  return none();
}

void write_directly(int fd, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t written = ::write(fd, data, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    data += written;
    size -= static_cast<std::size_t>(written);
  }
}

PyObject* write_stream(PyObject*, PyObject* args) {
  int fd = 1;
  const char* text = nullptr;
  Py_ssize_t size = 0;
  PyObject* parent = nullptr;
  if (PyArg_ParseTuple(args, "iy#O", &fd, &text, &size, &parent) == 0) return nullptr;
  if (forked) {
    {
      const GilReleased released;
      write_directly(fd, text, static_cast<std::size_t>(size));
    }
    return none();
  }
  StreamWrite write{fd == 2 ? "stderr" : "stdout", {}, {text, static_cast<std::size_t>(size)}};
  if (!to_string(parent, write.parent_header)) return nullptr;
  context->state.last_words.append(write.text);
  context->outbox.push(std::move(write));
  {
    const GilReleased released;
    context->outbox.wait_for_room();
  }
  return none();
}

PyObject* flush(PyObject*, PyObject*) {
  if (!forked) context->outbox.push(Flush{});
  return none();
}

PyObject* exit_process(PyObject*, PyObject* args) {
  int code = 0;
  if (PyArg_ParseTuple(args, "i", &code) == 0) return nullptr;
  const GilReleased released;
  context->exit_process(code);
  return none();
}

PyMethodDef methods[] = {
    {"start", start, METH_VARARGS,
     "start(options_fd, state_fd): called once by dipengine, before all others."},
    {"options", options, METH_NOARGS, "JSON text of dipengine's options."},
    {"wait_registered", wait_registered, METH_NOARGS,
     "Register, and wait for the id of this engine."},
    {"start_capture", start_capture, METH_NOARGS,
     "Send what is written to fds 1 and 2 to clients."},
    {"ready", ready, METH_NOARGS, "Python can take requests: answer heartbeats from now on."},
    {"begin_request", begin_request, METH_VARARGS,
     "begin_request(header): captured output belongs to this request from now on."},
    {"end_request", end_request, METH_NOARGS, "Wait until captured output was taken."},
    {"log", log_line, METH_VARARGS, "log(level, text): one line in the engine's log."},
    {"fault_fd", fault_fd, METH_NOARGS, "Where to say where the interpreter crashed."},
    {"bind_kernel", bind_kernel, METH_NOARGS,
     "Listen for Jupyter frontends on this machine: the ports of shell, iopub, standard_input, "
     "control and "
     "heartbeat."},
    {"inbox_fd", inbox_fd, METH_NOARGS, "Descriptor that is readable when take() has something."},
    {"clear_inbox_event", clear_inbox_event, METH_NOARGS, "Make inbox_fd() unreadable."},
    {"take", take, METH_NOARGS,
     "(channel, identities, header, parent, metadata, content, buffers) or None."},
    {"debug_fd", debug_fd, METH_NOARGS,
     "Descriptor that is readable when take_debug() has something."},
    {"take_debug", take_debug, METH_NOARGS,
     "As take(), for debug requests: they come from another thread's loop, until None."},
    {"stopping", stopping, METH_NOARGS, "Whether the engine is to end."},
    {"set_running", set_running, METH_VARARGS, "Whether SIGINT may reach Python now."},
    {"set_title", set_title, METH_VARARGS,
     "set_title(text): what reports call the request that runs."},
    {"abort_queued", abort_queued, METH_NOARGS, "Answer all queued cells with 'aborted'."},
    {"begin_generation", begin_generation, METH_VARARGS,
     "begin_generation(generation): no connection of it is known yet."},
    {"guard_sockets", guard_sockets, METH_VARARGS,
     "guard_sockets(fds): connections of this generation that a cut request may shut down."},
    {"guard_gloo", guard_gloo, METH_NOARGS,
     "Let a cut request end waits of Gloo; returns '' or why it can't, once torch is loaded."},
    {"allow_waits", allow_waits, METH_NOARGS,
     "Let Gloo wait again: a group that is not of a generation begins."},
    {"group_state", group_state, METH_NOARGS,
     "(cut, broken, texts): whether this generation was cut; whether it can't go on, a peer's "
     "connection having ended, too; what waits of Gloo have failed with in this request."},
    {"set_torch_plugin", set_torch_plugin, METH_VARARGS,
     "set_torch_plugin(abort, report): addresses of the plug-in's C functions."},
    {"cut_sockets", cut_sockets, METH_VARARGS,
     "cut_sockets(generation): shut these connections down; returns how many."},
    {"cut_event", cut_event, METH_NOARGS, "Descriptor that is readable after a cut."},
    {"last_collective", last_collective, METH_NOARGS,
     "(name, number) of the last collective, or None."},
    {"stack_channel", stack_channel, METH_NOARGS,
     "(signal, fd): what faulthandler has to be registered for."},
    {"arm_stack", arm_stack, METH_NOARGS, "To be called after faulthandler.register."},
    {"post", post, METH_VARARGS,
     "post(channel, identities, msg_type, header, parent, metadata, content, buffers)."},
    {"write", write_stream, METH_VARARGS, "write(fd, text, parent): output of the user's code."},
    {"flush", flush, METH_NOARGS, "Send written output now."},
    {"exit", exit_process, METH_VARARGS, "exit(code): send what is left and end the process."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_ddipp_engine",
                          "The C++ half of the ddipp engine.",
                          -1,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace
}  // namespace ddipp::engine

PyMODINIT_FUNC PyInit__ddipp_engine() {
  using namespace ddipp::engine;
  PyRef module(PyModule_Create(&definition));
  frame_type = make_frame_type();
  if (!module || frame_type == nullptr) return nullptr;
  if (PyModule_AddStringConstant(module.get(), "__version__", DDIPP_VERSION) != 0) return nullptr;
  return module.release();
}
