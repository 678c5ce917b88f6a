#include "protocol/extensions.hpp"

namespace ddipp::protocol::extensions {

void to_json(Json& json, const CutRequest& request) {
  json = Json{{"generation", nullptr},
              {"everything", request.everything},
              {"unanswered", request.unanswered}};
  if (request.generation) json["generation"] = *request.generation;
}

void from_json(const Json& json, CutRequest& request) {
  request = {};
  const Json meant = json.value("generation", Json());
  // A number with a point would be rounded to another generation.
  if (meant.is_number_float()) meant.get_ref<const std::string&>();
  if (!meant.is_null()) request.generation = meant.get<int>();
  request.everything = json.value("everything", false);
  request.unanswered = json.value("unanswered", false);
}

void to_json(Json& json, const CutReply& reply) {
  json = Json{{"status", reply.status}, {"connections", reply.connections}};
}

void to_json(Json& json, const ReportRequest& request) {
  json = Json{{"stack", request.stack}, {"gpu", request.gpu}};
}

void from_json(const Json& json, ReportRequest& request) {
  request = {};
  request.stack = json.value("stack", Json()) == Json(true);
  const Json gpu = json.value("gpu", Json());
  if (gpu.is_string()) request.gpu = gpu.get<std::string>();
}

void to_json(Json& json, const ReplayRequest& request) { json = Json{{"msg_id", request.msg_id}}; }

void from_json(const Json& json, ReplayRequest& request) {
  request.msg_id = json.value("msg_id", "");
}

void from_json(const Json& json, InterruptFor& wish) {
  const Json id = json.value(InterruptFor::key, Json());
  wish.msg_id = id.is_string() ? id.get<std::string>() : "";
}

Json death_entry(const Death& death) { return {{"version", kVersion}, {Death::key, death.reason}}; }

std::optional<CellTerms> cell_terms(const Json& metadata) {
  if (!metadata.is_object()) return std::nullopt;
  const Json ours = metadata.value(kEntry, Json());
  if (!ours.is_object()) return std::nullopt;
  const Json grace = ours.value(CellTerms::key, Json());
  if (!grace.is_number() || grace.get<double>() < 0) return std::nullopt;
  return CellTerms{grace.get<double>()};
}

}  // namespace ddipp::protocol::extensions
