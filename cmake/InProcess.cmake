# Linked by the libraries that are loaded into the user's interpreter. They keep their symbols to
# themselves, and share the C++ library with torch also where a compiler would link it statically: a
# second copy whose symbols are seen makes `import torch` abort.
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_LIBRARIES -l:libstdc++.so.6)
check_cxx_source_compiles("#include <string>
  int main(int n, char** texts) { return std::string(texts[n - 1]).empty() ? 1 : 0; }"
  DDIPP_SHARED_STDCXX)
unset(CMAKE_REQUIRED_LIBRARIES)

add_library(ddipp_in_process INTERFACE)
target_link_options(ddipp_in_process INTERFACE
  -Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/in_process.map)
if(DDIPP_SHARED_STDCXX)
  target_link_libraries(ddipp_in_process INTERFACE -l:libstdc++.so.6)
endif()
