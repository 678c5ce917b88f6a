// Looks at what engines publish as it goes by: stops what no holder of the key has signed, keeps
// the output of requests with their records and sees an engine say that it shuts down.
#pragma once

#include <optional>
#include <string>

#include "controller/relays/channel_services.hpp"
#include "protocol/net/multipart.hpp"
#include "protocol/net/reactor.hpp"

namespace ddipp::controller {

class OutputRecorder {
 public:
  OutputRecorder(const ChannelServices& services, Ledger& ledger)
      : services_(services), ledger_(ledger) {}

  struct Seen {
    bool genuine = false;              // clients may see it
    std::optional<std::string> ended;  // uuid of an engine that shuts down
  };
  // Leaves the message as it is.
  Seen look_at(const net::Multipart& message, net::Clock::time_point now);

 private:
  void record(const std::string& type, const std::string& msg_id, std::string_view content);

  ChannelServices services_;
  Ledger& ledger_;
};

}  // namespace ddipp::controller
