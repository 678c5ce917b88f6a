#include "launcher/cluster_file.hpp"

#include <algorithm>
#include <system_error>

#include "protocol/connection_file.hpp"

namespace ddipp::launcher {
namespace {

namespace fs = std::filesystem;
using protocol::Json;

Json process_json(const LaunchedProcess& process, const ClusterFile& file) {
  return {{"cluster_id", file.cluster_id},
          {"output_file", process.log.string()},
          {"pid", process.pid},
          {"profile_dir", file.profile_dir.string()},
          {"state", "running"}};
}

LaunchedProcess parse_process(const std::string& name, const Json& json) {
  return {name, json.value("pid", 0), json.value("output_file", "")};
}

Json engine_set(const ClusterFile& file) {
  Json set{{"cluster_id", file.cluster_id},
           {"n", file.engine_count},
           {"pid", -1},
           {"profile_dir", file.profile_dir.string()},
           {"state", "running"},
           {"engines", Json::object()}};
  if (file.engine_class != "ddipp") {  // one process for the whole set
    set.update(process_json(file.engines.front(), file));
    set.erase("engines");
    return set;
  }
  for (const auto& engine : file.engines) {
    set["engines"][engine.name] = process_json(engine, file);
    set["engines"][engine.name]["n"] = 1;
  }
  return set;
}

}  // namespace

fs::path cluster_file_path(const fs::path& profile_dir, const std::string& cluster_id) {
  return profile_dir / "security" / ("cluster-" + cluster_id + ".json");
}

Json to_json(const ClusterFile& file) {
  Json sets = Json::object();
  if (!file.engines.empty()) sets[std::to_string(file.engines.front().pid)] = engine_set(file);
  return {{"cluster",
           {{"cluster_id", file.cluster_id},
            {"controller_args", Json::array()},
            {"controller_ip", ""},
            {"controller_location", ""},
            {"delay", 0.0},
            {"n", file.engine_count},
            {"profile_dir", file.profile_dir.string()},
            {"class", "ipyparallel.cluster.cluster.Cluster"}}},
          {"controller", {{"class", "ddipp"}, {"state", process_json(file.controller, file)}}},
          {"engines", {{"class", file.engine_class}, {"sets", sets}}}};
}

Result<ClusterFile> parse_cluster_file(const Json& json) {
  ClusterFile file;
  try {
    const Json& cluster = json.at("cluster");
    file.cluster_id = cluster.at("cluster_id").get<std::string>();
    file.profile_dir = cluster.at("profile_dir").get<std::string>();
    if (json.contains("controller")) {
      file.controller = parse_process("controller", json.at("controller").at("state"));
    }
    file.engine_class = json.at("engines").at("class").get<std::string>();
    for (const auto& [id, set] : json.at("engines").at("sets").items()) {
      file.engine_count += set.value("n", 0U);
      if (!set.contains("engines")) {
        file.engines.push_back(parse_process(id, set));
        continue;
      }
      for (const auto& [name, engine] : set.at("engines").items()) {
        file.engines.push_back(parse_process(name, engine));
      }
    }
  } catch (const Json::exception& error) {
    return Failure{std::string("it is no cluster file: ") + error.what()};
  }
  return file;
}

std::vector<ClusterFile> cluster_files(const fs::path& profile_dir) {
  std::vector<ClusterFile> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(profile_dir / "security", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("cluster-") || !name.ends_with(".json")) continue;
    const auto json = protocol::read_json_file(entry.path());
    if (!json) continue;
    if (auto file = parse_cluster_file(*json)) found.push_back(std::move(*file));
  }
  std::ranges::sort(found, {}, &ClusterFile::cluster_id);
  return found;
}

}  // namespace ddipp::launcher
