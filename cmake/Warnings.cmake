# Linked by every target of ours; nothing leaks into the headers of others.
add_library(ddipp_warnings INTERFACE)
target_compile_options(ddipp_warnings INTERFACE -Wall -Wextra -Wconversion -Wshadow -Wnon-virtual-dtor)
if(DDIPP_WERROR)
  target_compile_options(ddipp_warnings INTERFACE -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # ccache with a precompiled header needs the preprocessed text to stay valid.
  target_compile_options(ddipp_warnings INTERFACE -fpch-preprocess)
  # False alarms of GCC 12 and 13 in "literal" + std::string (GCC bug 105651).
  target_compile_options(ddipp_warnings INTERFACE -Wno-restrict -Wno-stringop-overflow
                         -Wno-array-bounds)
endif()
if(DDIPP_SANITIZE)
  add_compile_options(-fsanitize=${DDIPP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${DDIPP_SANITIZE})
endif()
