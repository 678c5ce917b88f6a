// What ddipp's own parts say to each other beside ipyparallel's messages: docs/protocol.md.
//
// Nothing here disturbs a stock client, controller or engine: requests of ours are sent to engines
// of ours only, and what we add to messages of ipyparallel is left alone by others.
// magics/ddipp/shared/wire.py has the same names; tests/python/test_wire.py compares them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "protocol/content.hpp"

namespace ddipp::protocol::extensions {

// Of all that is in this file. A part that is newer says a higher number in its reports.
inline constexpr int kVersion = 1;

// The entry under which we add to content and metadata of ipyparallel's messages.
inline constexpr const char* kEntry = "ddipp";

// --- control: client, controller -> engine ----------------------------------------------------

// Ends the collectives that a rank waits in.
struct CutRequest {
  static constexpr const char* type = "ddipp_cut_request";
  static constexpr const char* reply_type = "ddipp_cut_reply";
  std::optional<int> generation;  // that is meant; none for the present one
  bool everything = false;        // all connections of the process that are not the engine's own
  bool unanswered = false;        // only if Python has not run since the last interrupt
};

struct CutReply {
  std::string status = "ok";
  std::size_t connections = 0;
};

// What the rank is doing.
struct ReportRequest {
  static constexpr const char* type = "ddipp_report_request";
  static constexpr const char* reply_type = "ddipp_report_reply";
  bool stack = false;
  std::string gpu;  // its UUID or index
};

// What a request has shown, for a client that was not there.
struct ReplayRequest {
  static constexpr const char* type = "ddipp_replay_request";
  static constexpr const char* reply_type = "ddipp_replay_reply";
  std::string msg_id;  // none for the last that showed something
};

// In a signal_request with SIGINT: the request that is to be interrupted. It is kept until that
// request begins, and forgotten when it has ended.
struct InterruptFor {
  static constexpr const char* key = "msg_id";
  std::string msg_id;  // none: what runs now
};

// --- inside of ipyparallel's messages ---------------------------------------------------------

// In the metadata of an execute_request.
struct CellTerms {
  static constexpr const char* key = "grace";
  double grace_s = 0;  // what other ranks may go on computing when one has failed
};

// In the content of an error reply with the name EngineError: why the engine is gone.
struct Death {
  static constexpr const char* key = "death";
  std::string reason;  // one line
};

// The topic that an engine subscribes to beside all pings, so that the end of its connection is
// seen at once.
inline constexpr std::string_view kLocalPresence = "engine:local:";
inline constexpr std::string_view kRemotePresence = "engine:remote:";

// --- conversion -------------------------------------------------------------------------------

void to_json(Json& json, const CutRequest& request);
void from_json(const Json& json, CutRequest& request);
void to_json(Json& json, const CutReply& reply);
void to_json(Json& json, const ReportRequest& request);
void from_json(const Json& json, ReportRequest& request);
void to_json(Json& json, const ReplayRequest& request);
void from_json(const Json& json, ReplayRequest& request);
void from_json(const Json& json, InterruptFor& wish);

// What kEntry holds in the reply to a request whose engine is gone.
Json death_entry(const Death& death);

// Of the metadata of an execute_request; nothing where a client of ipyparallel has sent it.
std::optional<CellTerms> cell_terms(const Json& metadata);

}  // namespace ddipp::protocol::extensions
