// What the command lines of all programs have in common: JSON configuration files in the profile,
// and a word about an option that does not exist.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/packing.hpp"
#include "protocol/result.hpp"

namespace CLI {
class App;
}

namespace ddipp {

// {"IPController": {"ip": "*", "ports": [1, 2]}} -> --IPController.ip=*, --IPController.ports=1,2.
// Classes that are not in `classes` belong to other programs and are passed over. Fails with one
// line on what is no configuration.
Result<std::vector<std::string>> config_arguments(const protocol::Json& config,
                                                  const std::vector<std::string>& classes);

// Of `names` the one that is most like `wrong`; "" when none is.
std::string nearest(std::string_view wrong, const std::vector<std::string>& names);

// The arguments that a configuration file stands for; none when there is no such file. Throws
// CLI::ParseError.
std::vector<std::string> read_config_file(const std::filesystem::path& path,
                                          const std::vector<std::string>& classes);

// Throws CLI::ParseError; an option that does not exist is one that names the nearest. With
// `passes_traits` those of the form --Class.trait=value stay in app.remaining().
void parse_command_line(CLI::App& app, std::vector<std::string> arguments,
                        bool passes_traits = false);

}  // namespace ddipp
