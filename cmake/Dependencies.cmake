# Every dependency is looked for before the first complaint, so that one message names all that is
# missing together with the line that installs it (Debian and Ubuntu).
set(DDIPP_MISSING "")

macro(ddipp_require variable package what)
  if(NOT ${variable})
    list(APPEND DDIPP_MISSING "${package}")
    message(STATUS "missing: ${what} (Debian package ${package})")
  endif()
endmacro()

find_package(Threads REQUIRED)

find_package(nlohmann_json QUIET)
ddipp_require(nlohmann_json_FOUND nlohmann-json3-dev "nlohmann_json")

find_package(OpenSSL 3 QUIET COMPONENTS Crypto)
ddipp_require(OPENSSL_FOUND libssl-dev "OpenSSL 3")

if(DDIPP_BUILD_TESTS)
  find_package(doctest QUIET)
  ddipp_require(doctest_FOUND doctest-dev "doctest")
endif()

if(NOT DDIPP_UNIT_TESTS_ONLY)
  find_path(ZMQ_INCLUDE_DIR zmq.h)
  find_library(ZMQ_LIBRARY zmq)
  if(ZMQ_INCLUDE_DIR AND ZMQ_LIBRARY)
    set(ZMQ_FOUND TRUE)
  endif()
  ddipp_require(ZMQ_FOUND libzmq3-dev "libzmq")
  find_path(CPPZMQ_INCLUDE_DIR zmq.hpp)
  ddipp_require(CPPZMQ_INCLUDE_DIR cppzmq-dev "cppzmq")

  find_package(spdlog QUIET)
  ddipp_require(spdlog_FOUND libspdlog-dev "spdlog")
  find_package(CLI11 QUIET)
  ddipp_require(CLI11_FOUND libcli11-dev "CLI11")

  find_package(SQLiteCpp QUIET)
  ddipp_require(SQLiteCpp_FOUND "libsqlitecpp-dev libsqlite3-dev" "SQLiteCpp")
  find_package(prometheus-cpp QUIET)
  ddipp_require(prometheus-cpp_FOUND prometheus-cpp-dev "prometheus-cpp")

  set(Boost_USE_STATIC_LIBS ON)
  find_package(Boost QUIET COMPONENTS filesystem)
  ddipp_require(Boost_FOUND "libboost-dev libboost-filesystem-dev" "Boost.Process")

  # Only the header: the library is loaded by the interpreter that hosts the user's code. Any CPython
  # from 3.9 on will do, since the limited API is used.
  find_package(Python3 3.9 QUIET COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('include'))"
    OUTPUT_VARIABLE DDIPP_PYTHON_HEADERS OUTPUT_STRIP_TRAILING_WHITESPACE)
  find_path(DDIPP_PYTHON_INCLUDE_DIR Python.h PATHS ${DDIPP_PYTHON_HEADERS} NO_DEFAULT_PATH)
  ddipp_require(DDIPP_PYTHON_INCLUDE_DIR python3-dev "Python headers")
endif()

if(DDIPP_MISSING)
  string(REPLACE ";" " " DDIPP_MISSING_LINE "${DDIPP_MISSING}")
  message(FATAL_ERROR "Missing dependencies. Install them with:\n"
                      "  apt-get install ${DDIPP_MISSING_LINE}\n")
endif()

if(NOT DDIPP_UNIT_TESTS_ONLY)
  add_library(ddipp_zmq INTERFACE)
  target_include_directories(ddipp_zmq SYSTEM INTERFACE ${ZMQ_INCLUDE_DIR} ${CPPZMQ_INCLUDE_DIR})
  target_link_libraries(ddipp_zmq INTERFACE ${ZMQ_LIBRARY} Threads::Threads)

  add_library(ddipp_boost INTERFACE)
  target_link_libraries(ddipp_boost INTERFACE Boost::headers Boost::filesystem Threads::Threads)
endif()
