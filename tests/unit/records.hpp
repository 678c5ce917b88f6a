// Records as they would come from the wire, for tests.
#pragma once

#include <memory>
#include <string>

#include "controller/core/record.hpp"

namespace ddipp::test {

inline controller::RecordPtr make_record(const std::string& id, const std::string& engine = "",
                                         controller::Queue queue = controller::Queue::mux,
                                         const std::string& date = "2026-01-31T12:00:00.000000Z") {
  auto record = std::make_shared<controller::Record>();
  record->msg_id = id;
  record->msg_type = "apply_request";
  record->client = "client";
  record->engine = engine;
  record->queue = queue;
  record->request = {R"({"msg_id": ")" + id +
                         R"(", "msg_type": "apply_request", "session": "s1",)" + R"( "date": ")" +
                         date + R"("})",
                     R"({"label": "training"})",
                     "{}",
                     {protocol::Blob(std::string("buffer of ") + id)}};
  return record;
}

inline controller::Parts make_result(const std::string& text = "ok") {
  return {R"({"msg_type": "apply_reply", "date": "2026-01-31T12:00:01.500000Z"})",
          R"({"started": "2026-01-31T12:00:01.000000+00:00", "status": "ok"})",
          R"({"status": "ok"})",
          {protocol::Blob(text)}};
}

}  // namespace ddipp::test
