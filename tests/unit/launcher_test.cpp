#include <doctest/doctest.h>

#include "launcher/cluster_file.hpp"
#include "launcher/engine_plan.hpp"

using namespace ddipp;
using namespace ddipp::launcher;

namespace {

EngineWish wish(Way way) {
  EngineWish wish;
  wish.way = way;
  wish.count = 2;
  wish.engine_program = "/opt/dipengine";
  wish.remote_program = "/opt/dipengine";
  wish.profile_dir = "/home/me/profile";
  wish.cluster_id = "c";
  wish.engine_args = {"--restart=on-failure"};
  return wish;
}

using Words = std::vector<std::string>;

}  // namespace

TEST_CASE("ways to launch have our names and those of ipyparallel") {
  CHECK(*way_from_name("local") == Way::local);
  CHECK(*way_from_name("ddipp") == Way::local);
  CHECK(*way_from_name("ddipp-slurm") == Way::slurm);
  CHECK(*way_from_name("MPI") == Way::mpi);
  CHECK(*way_from_name("SSH") == Way::ssh);
  CHECK_FALSE(way_from_name("pbs"));
}

TEST_CASE("hosts have counts or GPUs") {
  const auto hosts = parse_hosts("node1:4,me@node2[3,1],node3");
  REQUIRE(hosts);
  REQUIRE(hosts->size() == 3);
  CHECK((*hosts)[0].name == "node1");
  CHECK((*hosts)[0].engines == 4);
  CHECK((*hosts)[1].name == "me@node2");
  CHECK((*hosts)[1].engines == 2);
  CHECK((*hosts)[1].gpus == "3,1");
  CHECK((*hosts)[2].engines == 1);
  for (const char* wrong : {"", "a:0", "a:b", "a[", "-oProxyCommand=x", "a b", "a:99999"}) {
    CAPTURE(wrong);
    CHECK_FALSE(parse_hosts(wrong));
  }
}

TEST_CASE("local engines are told their ids") {
  const auto planned = plan_engines(wish(Way::local));
  REQUIRE(planned.size() == 2);
  CHECK(planned[1].command == Words{"/opt/dipengine", "--profile-dir", "/home/me/profile",
                                    "--cluster-id", "c", "--restart=on-failure", "--id", "1"});
  CHECK_FALSE(planned[1].needs_connection);
}

TEST_CASE("ssh gets the connection on its input, never on a command line") {
  auto asked = wish(Way::ssh);
  asked.hosts = *parse_hosts("node1,node2[0,1]");
  asked.engine_args = {"--id's"};
  const auto planned = plan_engines(asked);
  REQUIRE(planned.size() == 3);
  CHECK(planned[2].needs_connection);
  const auto& command = planned[2].command;
  CHECK(command[0] == "ssh");
  CHECK(command[command.size() - 2] == "node2");
  const std::string& remote = command.back();
  CHECK(remote.find("'CUDA_VISIBLE_DEVICES=0,1' '/opt/dipengine' --id 2") != std::string::npos);
  CHECK(remote.find(R"('--id'\''s')") != std::string::npos);  // quoted for the other shell
}

TEST_CASE("mpiexec and srun start all engines at once") {
  auto mpi = wish(Way::mpi);
  mpi.way_args = {"--oversubscribe"};
  const auto planned = plan_engines(mpi);
  REQUIRE(planned.size() == 1);
  CHECK(Words(planned[0].command.begin(), planned[0].command.begin() + 5) ==
        Words{"mpiexec", "-n", "2", "--oversubscribe", "/opt/dipengine"});
  CHECK(planned[0].command.back() == "--mpi");
  auto slurm = wish(Way::slurm);
  slurm.way_args = {"--time=10"};
  const auto job = plan_engines(slurm);
  REQUIRE(job.size() == 1);
  CHECK(Words(job[0].command.begin(), job[0].command.begin() + 3) ==
        Words{"srun", "--ntasks", "2"});
  CHECK(std::ranges::count(job[0].command, "--time=10") == 1);
  slurm.way = Way::sbatch;
  const auto batch = plan_engines(slurm);
  REQUIRE(batch.size() == 1);
  const auto& words = batch[0].command;
  CHECK(std::ranges::count(words, "--time=10") == 1);
  CHECK(words[words.size() - 2] == "--wrap");
  CHECK(words.back().starts_with("exec srun --kill-on-bad-exit=0 sh -c "));
  CHECK(words.back().find("'/opt/dipengine' '--profile-dir' '/home/me/profile'") !=
        std::string::npos);
}

TEST_CASE("a cluster file is read as it was written") {
  ClusterFile file;
  file.cluster_id = "c";
  file.profile_dir = "/home/me/profile";
  file.controller = {"controller", 10, "/log/controller"};
  file.engines = {{"0", 11, "/log/0"}, {"1", 12, "/log/1"}};
  file.engine_count = 2;
  const auto again = parse_cluster_file(to_json(file));
  REQUIRE(again);
  CHECK(again->cluster_id == "c");
  CHECK(again->controller.pid == 10);
  CHECK(again->engine_class == "ddipp");
  CHECK(again->engine_count == 2);
  REQUIRE(again->engines.size() == 2);
  CHECK(again->engines[1].name == "1");
  CHECK(again->engines[1].pid == 12);
  CHECK(again->engines[1].log == "/log/1");
}

TEST_CASE("one process that starts all engines is a set without parts") {
  ClusterFile file;
  file.engine_class = "ddipp-mpi";
  file.engines = {{"0", 11, "/log/all"}};
  file.engine_count = 4;
  const auto json = to_json(file);
  CHECK_FALSE(json["engines"]["sets"]["11"].contains("engines"));
  CHECK(json["engines"]["sets"]["11"]["pid"] == 11);
  const auto again = parse_cluster_file(json);
  REQUIRE(again);
  CHECK(again->engine_count == 4);
  CHECK(again->engines[0].pid == 11);
}

TEST_CASE("what is no cluster file is refused with a word") {
  for (const char* text : {"{}", "[]", "{\"cluster\": 3}", "{\"cluster\": {\"cluster_id\": 1}}"}) {
    const auto file = parse_cluster_file(protocol::Json::parse(text));
    REQUIRE_FALSE(file);
    CHECK(file.error().find("it is no cluster file") == 0);
  }
}

TEST_CASE("the manifest names what it is told") {
  const auto manifest = kubernetes_manifest("training", "me/image:1", 8, 1);
  for (const char* part : {"name: training-engines", "image: me/image:1", "completions: 8",
                           "nvidia.com/gpu: 1", "name: training-key", "tcp://training\""}) {
    CAPTURE(part);
    CHECK(manifest.find(part) != std::string::npos);
  }
  CHECK(manifest.find('@') == std::string::npos);
  CHECK(kubernetes_manifest("a", "b", 1, 0).find("nvidia") == std::string::npos);
}
