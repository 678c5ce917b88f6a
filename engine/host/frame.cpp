#include "engine/host/frame.hpp"

#include <dlfcn.h>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace ddipp::engine {
namespace {

// The buffer protocol is in the limited API from 3.11 only, but its functions and the layout of
// Py_buffer have been the same since 3.3 (PEP 688 froze them for all versions): declared here and
// looked up by name.
struct BufferView {
  void* buf;
  PyObject* obj;
  Py_ssize_t len;
  Py_ssize_t itemsize;
  int readonly;
  int ndim;
  char* format;
  Py_ssize_t* shape;
  Py_ssize_t* strides;
  Py_ssize_t* suboffsets;
  void* internal;
};

constexpr int kGetBufferSlot = 1;  // Py_bf_getbuffer
constexpr int kSimpleBuffer = 0;   // PyBUF_SIMPLE
constexpr std::size_t kShareFrom = 64 * 1024;

template <class Function>
Function* python_function(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_DEFAULT, name));
}

int get_buffer(PyObject* object, BufferView* view) {
  static const auto function =
      python_function<int(PyObject*, BufferView*, int)>("PyObject_GetBuffer");
  return function(object, view, kSimpleBuffer);
}

int fill_info(BufferView* view, PyObject* owner, void* data, Py_ssize_t size, int flags) {
  static const auto function =
      python_function<int(BufferView*, PyObject*, void*, Py_ssize_t, int, int)>(
          "PyBuffer_FillInfo");
  return function(view, owner, data, size, 0, flags);
}

void release(BufferView* view) {
  static const auto function = python_function<void(BufferView*)>("PyBuffer_Release");
  function(view);
}

// Views that ZeroMQ is done with, on their way back to a thread that holds the GIL.
class SentBuffers {
 public:
  void add(BufferView* view) {
    const std::lock_guard lock(mutex_);
    views_.emplace_back(view);
  }

  void release_all() {
    std::vector<std::unique_ptr<BufferView>> views;
    {
      const std::lock_guard lock(mutex_);
      views.swap(views_);
    }
    for (const auto& view : views) release(view.get());
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<BufferView>> views_;
};

// Lives as long as the process: ZeroMQ may give a frame back at any time.
SentBuffers& sent_buffers() {
  static auto* const buffers = new SentBuffers();
  return *buffers;
}

struct FrameObject {
  PyObject_HEAD zmq::message_t message;
};

void destroy_frame(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  reinterpret_cast<FrameObject*>(self)->message.~message_t();
  const auto free_object = reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free));
  free_object(self);
  Py_DECREF(reinterpret_cast<PyObject*>(type));
}

int frame_buffer(PyObject* self, BufferView* view, int flags) {
  auto& message = reinterpret_cast<FrameObject*>(self)->message;
  return fill_info(view, self, message.data(), static_cast<Py_ssize_t>(message.size()), flags);
}

}  // namespace

PyObject* make_frame_type() {
  static PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(destroy_frame)},
      {kGetBufferSlot, reinterpret_cast<void*>(frame_buffer)},
      {Py_tp_doc, const_cast<char*>("A frame of a received message; use memoryview(frame).")},
      {0, nullptr}};
  static PyType_Spec spec = {"_ddipp_engine.Frame", sizeof(FrameObject), 0, Py_TPFLAGS_DEFAULT,
                             slots};
  return PyType_FromSpec(&spec);
}

PyObject* wrap_frame(PyObject* frame_type, zmq::message_t message) {
  auto* type = reinterpret_cast<PyTypeObject*>(frame_type);
  const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
  PyObject* self = allocate(type, 0);
  if (self == nullptr) return nullptr;
  new (&reinterpret_cast<FrameObject*>(self)->message) zmq::message_t(std::move(message));
  return self;
}

bool unwrap_buffer(PyObject* object, zmq::message_t& message) {
  auto view = std::make_unique<BufferView>();
  if (get_buffer(object, view.get()) != 0) return false;
  const auto size = static_cast<std::size_t>(view->len);
  if (size < kShareFrom) {
    message.rebuild(view->buf, size);
    release(view.get());
    return true;
  }
  void* data = view->buf;
  const auto give_back = [](void*, void* hint) {
    sent_buffers().add(static_cast<BufferView*>(hint));
  };
  message.rebuild(data, size, give_back, view.release());
  return true;
}

void release_sent_buffers() { sent_buffers().release_all(); }

}  // namespace ddipp::engine
