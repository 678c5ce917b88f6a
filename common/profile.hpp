// Where IPython keeps the profile of a cluster. Shared by all programs.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace ddipp {

inline std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

// As jupyter's sessions name who sends.
inline std::string user_name() {
  const std::string user = environment("USER");
  return user.empty() ? "username" : user;
}

// --profile-dir, else $IPP_PROFILE_DIR, else profile_<name> in $IPYTHONDIR or ~/.ipython.
inline std::filesystem::path find_profile_dir(const std::string& profile_dir,
                                              const std::string& ipython_dir,
                                              const std::string& profile) {
  if (!profile_dir.empty()) return profile_dir;
  if (profile.empty() && !environment("IPP_PROFILE_DIR").empty()) {
    return environment("IPP_PROFILE_DIR");
  }
  std::filesystem::path base = ipython_dir;
  if (base.empty()) base = environment("IPYTHONDIR");
  if (base.empty()) base = std::filesystem::path(environment("HOME")) / ".ipython";
  return base / ("profile_" + (profile.empty() ? std::string("default") : profile));
}

// "ipcontroller-<cluster id>-client.json" in the security folder; kind is "client" or "engine".
inline std::filesystem::path connection_file_path(const std::filesystem::path& profile_dir,
                                                  const std::string& cluster_id,
                                                  const std::string& kind) {
  const std::string middle = cluster_id.empty() ? "-" : "-" + cluster_id + "-";
  return profile_dir / "security" / ("ipcontroller" + middle + kind + ".json");
}

// spdlog's names for the numbers and names of Python's logging.
inline std::string log_level_name(const std::string& level) {
  if (level == "10" || level == "DEBUG") return "debug";
  if (level == "20" || level == "INFO") return "info";
  if (level == "30" || level == "WARN" || level == "WARNING") return "warn";
  if (level == "40" || level == "ERROR") return "err";
  if (level == "50" || level == "CRITICAL" || level == "FATAL") return "critical";
  return level;
}

}  // namespace ddipp
