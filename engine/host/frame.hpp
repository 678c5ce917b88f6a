// Message frames as Python objects with the buffer protocol, and Python buffers as message frames;
// neither way copies large data.
#pragma once

#include <zmq.hpp>

#include "engine/host/python_api.hpp"

namespace ddipp::engine {

// Makes the type `Frame`; a new reference, or null with an exception set.
PyObject* make_frame_type();

// A new Frame that owns `message`; or null with an exception set.
PyObject* wrap_frame(PyObject* frame_type, zmq::message_t message);

// A frame with the bytes of a Python buffer. Small ones are copied, large ones are shared: the
// buffer is held until ZeroMQ has sent it and is released by release_sent_buffers().
// False with an exception set when `object` has no contiguous buffer.
bool unwrap_buffer(PyObject* object, zmq::message_t& message);

// Call with the GIL, now and then.
void release_sent_buffers();

}  // namespace ddipp::engine
