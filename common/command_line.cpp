#include "common/command_line.hpp"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <numeric>
#include <sstream>

#include <CLI/CLI.hpp>

namespace ddipp {

using protocol::Json;

namespace {

Result<std::string> argument_text(const std::string& name, const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean() || value.is_number()) return value.dump();
  if (value.is_array()) {
    std::string joined;
    for (const Json& item : value) {
      auto text = argument_text(name, item);
      if (!text) return text;
      joined += (joined.empty() ? "" : ",") + *text;
    }
    return joined;
  }
  return Failure{"'" + name + "' is neither a text, a number, a truth value nor a list"};
}

// Insertions, deletions and substitutions that turn one text into the other (Levenshtein).
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const auto* option : app.get_options()) {
    for (const auto& one : option->get_lnames()) names.push_back("--" + one);
    for (const auto& one : option->get_snames()) names.push_back("-" + one);
  }
  return names;
}

bool is_trait(const std::string& argument) {
  return argument.size() > 2 && argument.starts_with("--") &&
         std::isupper(static_cast<unsigned char>(argument[2])) != 0 &&
         argument.find('.') < argument.find('=') && argument.find('=') != std::string::npos;
}

void refuse_unknown(const CLI::App& app, bool passes_traits) {
  const auto rest = app.remaining();
  const auto unknown = std::find_if(rest.begin(), rest.end(), [passes_traits](const auto& one) {
    return !(passes_traits && is_trait(one));
  });
  if (unknown == rest.end()) return;
  const std::string name = unknown->substr(0, unknown->find('='));
  const std::string like = nearest(name, option_names(app));
  throw CLI::ParseError("there is no option " + name +
                            (like.empty() ? "" : "; did you mean " + like + "?") +
                            " (--help lists all)",
                        1);
}

}  // namespace

Result<std::vector<std::string>> config_arguments(const Json& config,
                                                  const std::vector<std::string>& classes) {
  if (!config.is_object()) return Failure{std::string("a configuration is a JSON object")};
  std::vector<std::string> arguments;
  for (const auto& [name, traits] : config.items()) {
    if (std::find(classes.begin(), classes.end(), name) == classes.end()) continue;
    if (!traits.is_object()) return Failure{"'" + name + "' is not an object"};
    for (const auto& [trait, value] : traits.items()) {
      const std::string option = name + "." + trait;
      const auto text = argument_text(option, value);
      if (!text) return Failure{text.error()};
      arguments.push_back("--" + option + "=" + *text);
    }
  }
  return arguments;
}

std::string nearest(std::string_view wrong, const std::vector<std::string>& names) {
  std::string best;
  std::size_t least = std::max<std::size_t>(2, wrong.size() / 3) + 1;
  for (const auto& name : names) {
    const std::size_t steps = distance(wrong, name);
    if (steps < least) {
      least = steps;
      best = name;
    }
  }
  return best;
}

std::vector<std::string> read_config_file(const std::filesystem::path& path,
                                          const std::vector<std::string>& classes) {
  std::ifstream file(path);
  if (!file) return {};
  std::ostringstream text;
  text << file.rdbuf();
  const auto json = protocol::unpack(text.str(), protocol::Packing::json);
  if (!json) throw CLI::ParseError(path.string() + " is not valid JSON", 1);
  auto arguments = config_arguments(*json, classes);
  if (!arguments) throw CLI::ParseError(path.string() + ": " + arguments.error(), 1);
  return std::move(*arguments);
}

void parse_command_line(CLI::App& app, std::vector<std::string> arguments, bool passes_traits) {
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  app.allow_extras();
  app.parse(std::move(arguments));
  refuse_unknown(app, passes_traits);
}

}  // namespace ddipp
