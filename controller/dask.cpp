#include "controller/dask.hpp"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <unistd.h>

#include "common/profile.hpp"
#include "protocol/content.hpp"

namespace ddipp::controller {

using protocol::Json;
namespace bp = boost::process;
namespace fs = std::filesystem;

namespace {

// Arguments come as JSON, the address goes out as a line of JSON, the end of the input is the end.
constexpr const char* kProgram = R"(
import asyncio, json, sys

async def main():
    try:
        from distributed import Scheduler
        scheduler = await Scheduler(**json.loads(sys.argv[1]))
    except Exception as error:
        print(json.dumps({"ename": type(error).__name__, "evalue": str(error)}), flush=True)
        return
    address = {"ip": scheduler.ip, "address": scheduler.address, "port": scheduler.port}
    print(json.dumps(address), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await scheduler.close()

asyncio.run(main())
)";

// The interpreter beside this program, else that of the environment, else the first on PATH.
std::string find_python() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  for (const fs::path& folder :
       {self.parent_path(), fs::path(environment("VIRTUAL_ENV")) / "bin"}) {
    const fs::path python = folder / "python";
    if (folder.is_absolute() && ::access(python.c_str(), X_OK) == 0) return python.string();
  }
  return bp::search_path("python3").string();
}

}  // namespace

void DaskScheduler::start(const Dask& request) {
  if (!address_.is_null()) return answer_(request, address_);
  unanswered_.push_back(request);
  if (child_) return;
  const Json arguments = request.arguments.is_object() ? request.arguments : Json::object();
  try {
    child_ = std::make_unique<Child>();
    child_->process =
        bp::child(find_python(), "-c", kProgram, arguments.dump(),
                  bp::std_in<child_->input, bp::std_out> child_->output, bp::std_err > stderr);
  } catch (const bp::process_error& error) {
    child_.reset();
    return answer_all(protocol::error_content(
        "RuntimeError", std::string("can't start a dask scheduler: ") + error.what()));
  }
  ::close(child_->output.native_sink());
  child_->output.assign_sink(-1);
  reactor_.add(child_->output.native_source(), [this] { on_output(); });
}

void DaskScheduler::on_output() {
  std::array<char, 4096> bytes{};
  const auto count = ::read(child_->output.native_source(), bytes.data(), bytes.size());
  if (count > 0) text_.append(bytes.data(), static_cast<std::size_t>(count));
  const auto end = text_.find('\n');
  if (end == std::string::npos && count > 0) return;
  if (!address_.is_null() && count > 0) return;
  const auto said = protocol::unpack(text_.substr(0, end), protocol::Packing::json);
  if (said && said->is_object() && said->contains("address") && count > 0) {
    address_ = *said;
    address_["status"] = "ok";
    return answer_all(address_);
  }
  const std::string name = said && said->is_object() ? said->value("ename", "") : "";
  const std::string why = said && said->is_object() ? said->value("evalue", "") : "";
  stop();
  answer_all(protocol::error_content(name.empty() ? "RuntimeError" : name,
                                     "the dask scheduler ended" + (why.empty() ? "" : ": " + why)));
}

void DaskScheduler::answer_all(const Json& content) {
  for (const auto& request : std::exchange(unanswered_, {})) answer_(request, content);
}

void DaskScheduler::stop() {
  text_.clear();
  address_ = nullptr;
  if (!child_) return;
  reactor_.remove(child_->output.native_source());
  child_->input.pipe().close();
  std::error_code error;
  if (!child_->process.wait_for(std::chrono::seconds(3), error)) child_->process.terminate(error);
  child_.reset();
}

}  // namespace ddipp::controller
