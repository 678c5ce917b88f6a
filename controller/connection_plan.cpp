#include "controller/connection_plan.hpp"

#include <stdexcept>

#include "common/random_uuid.hpp"
#include "protocol/address.hpp"
#include "protocol/net/curve.hpp"

namespace ddipp::controller {
namespace {

using protocol::PortPool;

PortPool pool(const std::string& text) {
  if (text.empty()) return {};
  auto ports = protocol::parse_ports(text);
  if (!ports) throw std::runtime_error(ports.error());
  return PortPool(std::move(*ports));
}

// Of both sides.
struct CommonPorts {
  PortPool pool;
  int last_ipc_number = 0;
};

// Ports of one side come from its own pool, then from the common one.
class Ports {
 public:
  Ports(CommonPorts& common, const std::string& own, std::string_view interface)
      : common_(common), own_(pool(own)), is_ipc_(interface.starts_with("ipc")) {}

  int next() {
    if (const auto port = own_.next()) return *port;
    if (const auto port = common_.pool.next()) return *port;
    return is_ipc_ ? ++common_.last_ipc_number : 0;
  }

 private:
  CommonPorts& common_;
  PortPool own_;
  bool is_ipc_;
};

net::CurveKeys curve_keys(const CurveOptions& options) {
  if (!options.public_key.empty() && !options.secret_key.empty()) {
    return {options.public_key, options.secret_key};
  }
  return net::make_curve_keys();
}

ConnectionPlan fresh(const Options& options) {
  ConnectionPlan plan;
  CommonPorts common{pool(options.ports)};
  Ports engine_ports(common, options.engine_ports, options.engine_interface);
  Ports client_ports(common, options.client_ports, options.client_interface);
  auto& engine = plan.engine;
  auto& client = plan.client;
  engine.common.registration = engine_ports.next();
  for (int* port : {&engine.control, &engine.mux, &engine.task, &engine.iopub, &engine.hb_ping,
                    &engine.hb_pong}) {
    *port = engine_ports.next();
  }
  engine.broadcast = {engine_ports.next()};
  for (int* port : {&client.control, &client.mux, &client.task, &client.iopub, &client.notification,
                    &client.broadcast}) {
    *port = client_ports.next();
  }
  // A client gives up on tasks with a pure scheduler when an engine leaves; ours copes.
  client.task_scheme = options.scheme == "pure" ? "lru" : options.scheme;

  auto& common_part = engine.common;
  common_part.location = options.location;
  common_part.key = options.key ? *options.key : random_uuid();
  common_part.pack = common_part.unpack = options.pack;
  if (options.curve.enabled) {
    const auto keys = curve_keys(options.curve);
    common_part.curve_serverkey = keys.public_key;
    plan.curve_secret_key = keys.secret_key;
  }
  client.common = common_part;
  engine.common.interface = options.engine_interface;
  engine.common.ssh = options.engine_ssh;
  client.common.interface = options.client_interface;
  client.common.ssh = options.client_ssh;
  return plan;
}

template <class Connection>
Connection read(const std::filesystem::path& path,
                Result<Connection> (*parse)(const protocol::Json&)) {
  const auto json = protocol::read_json_file(path);
  if (!json) throw std::runtime_error(json.error());
  auto connection = parse(*json);
  if (!connection) throw std::runtime_error(path.string() + ": " + connection.error());
  return std::move(*connection);
}

ConnectionPlan reused(const Options& options) {
  ConnectionPlan plan;
  plan.reused = true;
  plan.client = read(options.connection_file("client"), protocol::parse_client_connection);
  plan.engine = read(options.connection_file("engine"), protocol::parse_engine_connection);
  const auto& client = plan.client.common;
  const auto& engine = plan.engine.common;
  if (client.key != engine.key || client.registration != engine.registration ||
      client.pack != engine.pack || client.signature_scheme != engine.signature_scheme ||
      client.curve_serverkey != engine.curve_serverkey) {
    throw std::runtime_error("the connection files of clients and engines don't belong together");
  }
  if (engine.key.empty() && engine.curve_serverkey.empty() && options.key != "") {
    throw std::runtime_error(
        "the connection files have no key; --no-secure takes them as they are");
  }
  if (!engine.curve_serverkey.empty()) {
    if (options.curve.public_key != engine.curve_serverkey || options.curve.secret_key.empty()) {
      throw std::runtime_error(
          "the connection files want CURVE; give their keys in $IPP_CURVE_PUBLICKEY and "
          "$IPP_CURVE_SECRETKEY");
    }
    plan.curve_secret_key = options.curve.secret_key;
  }
  return plan;
}

}  // namespace

ConnectionPlan plan_connections(const Options& options) {
  if (!options.reuse) return fresh(options);
  try {
    return reused(options);
  } catch (const std::runtime_error& error) {
    ConnectionPlan plan = fresh(options);
    plan.note = std::string("new connection files: ") + error.what();
    return plan;
  }
}

}  // namespace ddipp::controller
