// Frames and blobs share memory: what is relayed, stored and sent again is not copied.
#pragma once

#include <zmq.hpp>

#include "protocol/blob.hpp"

namespace ddipp::net {

// Bytes of a frame that stay alive after the frame is sent. Small ones are copied: that is cheaper.
protocol::Blob share(zmq::message_t& frame);

zmq::message_t make_frame(const protocol::Blob& blob);

}  // namespace ddipp::net
