#include "engine/libraries.hpp"

#include <dlfcn.h>
#include <filesystem>

namespace ddipp::engine {

Result<void*> load_library(const std::string& name) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::read_symlink("/proc/self/exe").parent_path();
  const fs::path path = (folder / "../lib/ddipp" / name).lexically_normal();
  if (void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  return Failure{"can't load a library of dipengine: " + std::string(::dlerror())};
}

void* find_function(void* library, const char* name) { return ::dlsym(library, name); }

}  // namespace ddipp::engine
