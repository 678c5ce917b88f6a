// Records from messages on the wire, and messages from records.
#pragma once

#include <string>

#include "controller/core/record.hpp"
#include "protocol/net/multipart.hpp"
#include "protocol/session.hpp"

namespace ddipp::controller {

// Copies the small parts, shares the buffers.
Parts parts_of(const protocol::Verified& envelope, net::Multipart& message);

// A request as a new record; null when its header has no msg_id.
RecordPtr make_record(const protocol::Verified& envelope, net::Multipart& message,
                      protocol::Packing packing, std::string client, std::string engine,
                      Queue queue);

// [identities..., delimiter, signature, header, parent header, metadata, content, buffers...]
net::Multipart request_frames(const Record& record, const std::vector<std::string>& identities,
                              const protocol::Session& session);

// The reply that ends a request without a result, [client, delimiter, ...], and the same as the
// record's result.
struct ErrorReply {
  net::Multipart frames;
  Parts parts;
};

// `why`: one line; what follows it goes to the traceback alone. `ours`: what our clients read
// beside it, see protocol/extensions.hpp.
ErrorReply error_reply(const Record& record, const std::string& name, const std::string& why,
                       protocol::Session& session, protocol::Timestamp now,
                       const protocol::Json& ours = nullptr);

// The msg_id of a whole message that was verified before, "" when there is none.
std::string request_id(const net::Multipart& message, const protocol::Session& session);

// The parent's msg_id, "" when there is none.
std::string parent_id(const protocol::Verified& envelope, protocol::Packing packing);

}  // namespace ddipp::controller
