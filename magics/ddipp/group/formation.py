"""How ranks come to be one process group, seen from the notebook."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

from ..errors import DdippError, DevicesLost
from ..notebook.display import has_front_end, ranks_text, say
from ..on_rank import membership as rank_side
from ..on_rank import process as rank_process
from .calls import Ranks
from .interrupts import Interrupts
from .report import RankReport

#: The watchdog of NCCL groups leaves it to us what follows from an error: it would abort the
#: collective without an interrupt, and the cell would go on with half a result. It does not end the
#: process either, and ends itself at once (after an error it sleeps four times WAIT_TIMEOUT_DUMP, a
#: minute if not set).
NCCL_ENVIRONMENT = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_RETHROW_CUDA_ERRORS": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "1",
}


def form_generation(
    ranks: Ranks, generation: int, backend: str, timeout_s: float, *, failed: bool = False
) -> list[dict[str, Any]]:
    """Let all ranks leave the group that they are in and join a new one.

    Parameters
    ----------
    ranks : Ranks
        All of them, idle.
    generation : int
        Of the new group.
    backend : {"gloo", "nccl"}
        Of the new group.
    timeout_s : float
        For the rendezvous, in seconds.
    failed : bool
        Whether a cell has failed, whose memory is to be freed.

    Returns
    -------
    list of dict
        What :func:`ddipp.on_rank.membership.form_group` returned, by rank.

    Raises
    ------
    DevicesLost
        When ranks can't use their GPU; all have left the old group then.
    """
    world_size = len(ranks)
    # A communicator of NCCL takes GPU memory, which may be what the cell has run out of.
    facts = ranks.apply(rank_side.prepare, has_front_end(), failed, failed and backend == "nccl")
    ranks.know_processes([(fact["host"], fact["pid"]) for fact in facts])
    if causes := {
        rank: fact["gpu_problem"] for rank, fact in enumerate(facts) if fact["gpu_problem"]
    }:
        raise DevicesLost(causes)
    each = environments(facts, backend)
    if not all(fact["torch"] for fact in facts):
        ranks.apply_each(rank_process.set_environment, each)
        _import_torch(ranks)
    one_host = len({fact["host"] for fact in facts}) == 1
    host = "127.0.0.1" if one_host else facts[0]["address"]
    port = ranks.apply_on(0, rank_side.open_store, host, world_size, timeout_s)
    # Each group once, in an order that is the same on all ranks.
    others = list({name: (name, *rest) for fact in facts for name, *rest in fact["held"]}.values())
    place = (world_size, host, port, generation, backend, timeout_s, others)
    return ranks.apply_each(
        rank_side.form_group,
        [(rank, *place, *environment) for rank, environment in enumerate(each)],
        timeout_s + 10,
        lambda: ranks.cut(generation, range(world_size)),
    )


def environments(facts: Sequence[dict[str, Any]], backend: str) -> list[tuple[Any, ...]]:
    """Return what torchrun would set on each rank, and a fair share of threads."""
    hosts = [fact["host"] for fact in facts]
    environments: list[tuple[Any, ...]] = []
    for rank, fact in enumerate(facts):
        here = hosts.count(fact["host"])
        values = {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(facts)),
            "LOCAL_RANK": str(hosts[:rank].count(fact["host"])),
            "LOCAL_WORLD_SIZE": str(here),
        }
        defaults = {"OMP_NUM_THREADS": str(max(1, fact["cores"] // here))}
        if backend == "nccl":
            defaults |= NCCL_ENVIRONMENT
        if len(set(hosts)) == 1 and backend == "gloo":
            values["GLOO_SOCKET_IFNAME"] = "lo"
        elif len(set(hosts)) > 1 and fact["interface"]:
            defaults["GLOO_SOCKET_IFNAME"] = fact["interface"]
            defaults["NCCL_SOCKET_IFNAME"] = fact["interface"]
        environments.append((values, defaults))
    return environments


def _import_torch(ranks: Ranks) -> None:
    import ipyparallel.error

    try:
        ranks.apply(rank_process.import_torch)
    except (ipyparallel.error.RemoteError, ipyparallel.error.CompositeError) as error:
        if "ModuleNotFoundError" not in str(error):
            raise
        raise DdippError(
            "torch is not installed in this environment; install it with: "
            f"{sys.executable} -m pip install torch"
        ) from None


def changes(
    formed: Sequence[dict[str, Any]],
    backend: str,
    without_variables: Collection[int],
    whole: Sequence[int] = (),
) -> list[str]:
    """Say what is not as it was before a generation was formed.

    Parameters
    ----------
    formed : sequence of dict
        What the ranks returned.
    backend : str
        Of the group.
    without_variables : collection of int
        Ranks that were started again, whose models can't be compared.
    whole : sequence of int
        Ranks on which every collective has succeeded, if others were aborted in one.
    """
    source = f"--from {whole[0]} " if whole else ""
    lines = []
    problems = {fact["problem"] for fact in formed} - {""}
    lost = {name for fact in formed for name in fact["lost"]}
    if problems and (backend == "nccl" or lost):
        lines.append(problems.pop())
    if lost:
        lines.append("groups made with new_group have ended; make them again")
    kept = [fact["models"] for rank, fact in enumerate(formed) if rank not in without_variables]
    for name in sorted({name for models in kept for name in models}):
        if len({models[name] for models in kept if name in models}) > 1:
            lines.append(
                f"the parameters of {name} differ between ranks: some stopped before a step of "
                f"the optimizer and some after it. Make them equal with: %dipsync {source}{name} "
                "and the name of the optimizer"
            )
    return lines


def connect_client(connection_file: str | None) -> Any:
    """Return a client of a running controller.

    Parameters
    ----------
    connection_file : str, optional
        Of the client; that of the default profile when not given.

    Raises
    ------
    DdippError
        When nobody answers there.
    """
    import ipyparallel

    try:
        return ipyparallel.Client(connection_file, timeout=10)
    except OSError as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DdippError(
            f"no controller answers ({why}); start one with: dipcluster start, or give its "
            "ipcontroller-client.json"
        ) from None


def in_host_order(client: Any) -> tuple[list[int], str]:
    """Return the engines of a client, host by host, and the backend that they can use.

    Raises
    ------
    DdippError
        When there are none.
    """
    if not client.ids:
        raise DdippError("the controller has no engines; start some with: dipengine")
    ranks = Ranks(client, client.ids)
    facts = ranks.apply(rank_process.probe)
    hosts = [fact["host"] for fact in facts]
    order = sorted(range(len(ranks)), key=lambda rank: hosts.index(hosts[rank]))
    enough = all(fact["gpus"] >= hosts.count(fact["host"]) for fact in facts)
    return [ranks.engine_ids[rank] for rank in order], "nccl" if enough else "gloo"


def wait_until_idle(ranks: Ranks, grace_s: float) -> None:
    """Wait for the cell of a notebook that is gone; Ctrl-C ends it.

    Parameters
    ----------
    ranks : Ranks
        All of them.
    grace_s : float
        How long a rank may wait in a collective for one that has ended, in seconds.
    """
    told = False
    tried = 0
    waits_since: float | None = None
    with Interrupts() as interrupts:
        while True:
            reports = ranks.reports(stack=False)
            busy = [report for report in reports if report.state == "busy"]
            if not busy:
                return
            who = [report.rank for report in busy]
            if not told:
                told = True
                say(
                    f"{ranks_text(who)} still run a cell ({busy[0].title or 'unknown'}, since "
                    f"{max(report.seconds for report in busy):.0f} s); waiting for its end, Ctrl-C "
                    "ends it"
                )
            stuck = _wait_for_ended(reports)
            waits_since = (waits_since or time.monotonic()) if stuck else None
            if waits_since is not None and time.monotonic() - waits_since > grace_s:
                # An abort with NCCL raises nothing.
                quiet = [rank for rank in stuck if not reports[rank].waiting]
                ranks.signal(signal.SIGINT, quiet)
                ranks.cut_any(who)
            if interrupts.take():
                tried += 1
                if tried > 2:
                    raise DdippError(f"{ranks_text(who)} did not react to interrupts")
                ranks.signal(signal.SIGINT, who)
                time.sleep(0.15)
                ranks.cut_any(who)
            time.sleep(0.1)


def _wait_for_ended(reports: Sequence[RankReport]) -> list[int]:
    """Return the ranks that are in a collective though another one has ended its cell.

    With NCCL only the number of a collective tells.
    """
    ended = [report.collectives for report in reports if report.state == "idle"]
    return [
        report.rank
        for report in reports
        if ended and report.state == "busy" and (report.waiting or report.collectives > min(ended))
    ]
