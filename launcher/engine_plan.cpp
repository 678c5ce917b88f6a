#include "launcher/engine_plan.hpp"

#include <algorithm>
#include <charconv>
#include <regex>
#include <utility>

namespace ddipp::launcher {
namespace {

using Command = std::vector<std::string>;

// Reads the connection file from the first line of its standard input, runs the engine, and ends it
// when that input ends: ssh has gone, because the launcher or the network has.
constexpr const char* kRemoteScript =
    "exec 3<&0; umask 077; d=$(mktemp -d) || exit 1; trap 'rm -rf \"$d\"' EXIT; "
    "IFS= read -r line; printf '%s\\n' \"$line\" > \"$d/ipcontroller-engine.json\"; "
    "\"$@\" --file \"$d/ipcontroller-engine.json\" 3<&- & e=$!; "
    "{ cat <&3 > /dev/null; kill $e 2> /dev/null; } & w=$!; "
    "wait $e; s=$?; kill $w 2> /dev/null; exit $s";

std::string quoted(const std::string& word) {
  std::string result = "'";
  for (const char c : word) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

Command local_engine(const EngineWish& wish) {
  Command command{wish.engine_program.string(), "--profile-dir", wish.profile_dir.string()};
  if (!wish.cluster_id.empty()) command.insert(command.end(), {"--cluster-id", wish.cluster_id});
  command.insert(command.end(), wish.engine_args.begin(), wish.engine_args.end());
  return command;
}

std::vector<PlannedProcess> local_engines(const EngineWish& wish) {
  std::vector<PlannedProcess> planned;
  for (unsigned i = 0; i < wish.count; ++i) {
    Command command = local_engine(wish);
    command.insert(command.end(), {"--id", std::to_string(i)});
    planned.push_back({std::to_string(i), std::move(command)});
  }
  return planned;
}

std::vector<PlannedProcess> ssh_engines(const EngineWish& wish) {
  std::vector<PlannedProcess> planned;
  for (const Host& host : wish.hosts) {
    for (unsigned i = 0; i < host.engines; ++i) {
      const std::string id = std::to_string(planned.size());
      std::string remote = "exec sh -c " + quoted(kRemoteScript) + " sh env";
      if (!host.gpus.empty()) remote += " " + quoted("CUDA_VISIBLE_DEVICES=" + host.gpus);
      remote += " " + quoted(wish.remote_program) + " --id " + id;
      for (const auto& argument : wish.engine_args) remote += " " + quoted(argument);
      Command command{"ssh", "-o", "BatchMode=yes"};
      command.insert(command.end(), wish.way_args.begin(), wish.way_args.end());
      command.insert(command.end(), {host.name, remote});
      planned.push_back({id, std::move(command), true});
    }
  }
  return planned;
}

// One program starts all of them; each asks for its rank as its id.
std::vector<PlannedProcess> engines_of(const EngineWish& wish, Command program) {
  program.insert(program.end(), wish.way_args.begin(), wish.way_args.end());
  const Command engine = local_engine(wish);
  program.insert(program.end(), engine.begin(), engine.end());
  program.emplace_back("--mpi");
  return {{"all", std::move(program)}};
}

// Submits a job and stays as long as it is there; asked to end, it cancels the job.
constexpr const char* kBatchScript =
    "id=$(sbatch --parsable \"$@\") || exit 1; id=${id%%;*}; "
    "trap 'scancel \"$id\"; exit 143' TERM INT HUP; "
    "while squeue --noheader --jobs \"$id\" 2> /dev/null | grep -q .; do sleep 1 & wait $!; done";

constexpr const char* kTaskScript = "exec \"$@\" --id \"$SLURM_PROCID\"";

std::vector<PlannedProcess> batch_engines(const EngineWish& wish) {
  std::string job = "exec srun --kill-on-bad-exit=0 sh -c " + quoted(kTaskScript) + " sh";
  for (const auto& word : local_engine(wish)) job += " " + quoted(word);
  const auto log = wish.profile_dir / "log" / "ipengine-slurm-%j.log";
  Command program{"sh",       "-c",        kBatchScript,
                  "sh",       "--ntasks",  std::to_string(wish.count),
                  "--output", log.string()};
  program.insert(program.end(), wish.way_args.begin(), wish.way_args.end());
  program.insert(program.end(), {"--wrap", job});
  return {{"all", std::move(program)}};
}

// srun has no MPI to initialize, but a rank.
std::vector<PlannedProcess> slurm_engines(const EngineWish& wish) {
  Command program{"srun", "--ntasks", std::to_string(wish.count), "--kill-on-bad-exit=0"};
  program.insert(program.end(), wish.way_args.begin(), wish.way_args.end());
  program.insert(program.end(), {"sh", "-c", kTaskScript, "sh"});
  const Command engine = local_engine(wish);
  program.insert(program.end(), engine.begin(), engine.end());
  return {{"all", std::move(program)}};
}

constexpr const char* kManifest = R"manifest(# Make a key first:
#   kubectl create secret generic @NAME@-key --from-literal=key=$(openssl rand -hex 32)
# Clients inside the cluster use the controller's ipcontroller-client.json; from outside
#   kubectl port-forward service/@NAME@ 10101-10118
# brings its ports.
apiVersion: v1
kind: Service
metadata:
  name: @NAME@
spec:
  selector: {app: @NAME@-controller}
  ports:
@PORTS@---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: @NAME@-controller
spec:
  replicas: 1
  selector:
    matchLabels: {app: @NAME@-controller}
  template:
    metadata:
      labels: {app: @NAME@-controller}
    spec:
      containers:
        - name: controller
          image: @IMAGE@
          command: [dipcontroller, "--ip=0.0.0.0", "--location=@NAME@", "--ports=10101-10118"]
          env:
            - name: IPP_SESSION_KEY
              valueFrom: {secretKeyRef: {name: @NAME@-key, key: key}}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: @NAME@-engines
spec:
  completions: @ENGINES@
  parallelism: @ENGINES@
  completionMode: Indexed
  template:
    spec:
      restartPolicy: OnFailure
      containers:
        - name: engine
          image: @IMAGE@
          command: [sh, -c, exec dipengine --id "$JOB_COMPLETION_INDEX" --restart=on-failure]
@LIMITS@          env:
            - name: IPP_SESSION_KEY
              valueFrom: {secretKeyRef: {name: @NAME@-key, key: key}}
            - name: IPP_CONNECTION_INFO
              value: >-
                {"interface": "tcp://@NAME@", "registration": 10101, "location": "@NAME@",
                "key": "$(IPP_SESSION_KEY)", "signature_scheme": "hmac-sha256",
                "pack": "json", "unpack": "json", "ssh": "", "control": 10102, "mux": 10103,
                "task": 10104, "iopub": 10105, "hb_ping": 10106, "hb_pong": 10107,
                "broadcast": [10108]}
)manifest";

}  // namespace

Result<Way> way_from_name(const std::string& name) {
  std::string low = name;
  std::ranges::transform(low, low.begin(), [](unsigned char c) { return std::tolower(c); });
  if (low.starts_with("ddipp")) low = low == "ddipp" ? "local" : low.substr(low.find('-') + 1);
  if (low == "local") return Way::local;
  if (low == "ssh") return Way::ssh;
  if (low == "mpi") return Way::mpi;
  if (low == "slurm") return Way::slurm;
  if (low == "sbatch") return Way::sbatch;
  return Failure{"--engines " + name + ": say local, ssh, mpi, slurm or sbatch"};
}

Result<std::vector<Host>> parse_hosts(const std::string& text) {
  static const std::regex pattern(R"(([^\s:\[\],]+)(?::(\d+)|\[([\d,]+)\])?)");
  std::vector<Host> hosts;
  auto begin = text.cbegin();
  while (begin != text.cend()) {
    std::smatch match;
    if (!std::regex_search(begin, text.cend(), match, pattern,
                           std::regex_constants::match_continuous)) {
      return Failure{"'" + text + "' is no list of hosts; write it as node1:4,me@node2[0,1]"};
    }
    Host host{match[1], 1, match[3]};
    if (host.name.starts_with('-')) return Failure{"a host can't be called '" + host.name + "'"};
    if (match[2].matched) {
      const std::string count = match[2];
      std::from_chars(count.data(), count.data() + count.size(), host.engines);
    } else if (!host.gpus.empty()) {
      host.engines = static_cast<unsigned>(std::ranges::count(host.gpus, ',') + 1);
    }
    if (host.engines == 0 || host.engines > 1024) {
      return Failure{"'" + match.str() + "': from 1 to 1024 engines on a host"};
    }
    hosts.push_back(std::move(host));
    begin = match[0].second;
    if (begin != text.cend() && *begin == ',') ++begin;
  }
  if (hosts.empty()) return Failure{"which hosts? --hosts node1:4,node2:4"};
  return hosts;
}

std::vector<PlannedProcess> plan_engines(const EngineWish& wish) {
  switch (wish.way) {
    case Way::local:
      return local_engines(wish);
    case Way::ssh:
      return ssh_engines(wish);
    case Way::mpi:
      return engines_of(wish, {"mpiexec", "-n", std::to_string(wish.count)});
    case Way::slurm:
      return slurm_engines(wish);
    case Way::sbatch:
      return batch_engines(wish);
  }
  return {};
}

std::string kubernetes_manifest(const std::string& name, const std::string& image, unsigned engines,
                                unsigned gpus_per_engine) {
  const auto replaced = [](std::string text, const std::string& what, const std::string& by) {
    for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) {
      text.replace(at, what.size(), by);
    }
    return text;
  };
  std::string ports;
  for (int port = 10101; port <= 10118; ++port) {
    ports += "    - {name: p" + std::to_string(port) + ", port: " + std::to_string(port) + "}\n";
  }
  std::string limits;
  if (gpus_per_engine > 0) {
    limits = "          resources: {limits: {nvidia.com/gpu: " + std::to_string(gpus_per_engine) +
             "}}\n";
  }
  std::string manifest = kManifest;
  for (const auto& [what, by] :
       std::vector<std::pair<std::string, std::string>>{{"@PORTS@", ports},
                                                        {"@LIMITS@", limits},
                                                        {"@NAME@", name},
                                                        {"@IMAGE@", image},
                                                        {"@ENGINES@", std::to_string(engines)}}) {
    manifest = replaced(std::move(manifest), what, by);
  }
  return manifest;
}

}  // namespace ddipp::launcher
