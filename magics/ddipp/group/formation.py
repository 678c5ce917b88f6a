"""How ranks come to be one process group, seen from the notebook."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

from ..backends import Backend, backend_for
from ..errors import DdippError, DevicesLost
from ..on_rank import membership as rank_side
from ..on_rank import process as rank_process
from ..recovery.leftover import Leftover
from ..recovery.policy import Policy
from ..shared import torchrun
from ..shared.text import ranks_text
from .announcer import Announcer
from .calls import Ranks
from .carrier import Carrier
from .interrupts import Interrupts


def form_generation(
    ranks: Ranks,
    generation: int,
    backend: Backend,
    policy: Policy,
    timeout_s: float,
    *,
    rich: bool = False,
    failed: bool = False,
) -> list[dict[str, Any]]:
    """Let all ranks leave the group that they are in and join a new one.

    Parameters
    ----------
    ranks : Ranks
        All of them, idle.
    generation : int
        Of the new group.
    backend : Backend
        Of the new group.
    policy : Policy
        How patient, should a rank fail in it.
    timeout_s : float
        For the rendezvous, in seconds.
    rich : bool
        Whether the cells are typed in a notebook, not in a terminal.
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
    facts = ranks.apply(rank_side.prepare, rich, failed, failed and backend.frees_first)
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
    place = (world_size, host, port, generation, backend.name, timeout_s, others)
    return ranks.apply_each(
        rank_side.form_group,
        [(rank, *place, *environment) for rank, environment in enumerate(each)],
        generation=generation,
        timeout_s=timeout_s + policy.grace_s,
        policy=policy,
    )


def environments(facts: Sequence[dict[str, Any]], backend: Backend) -> list[tuple[Any, ...]]:
    """Return what torchrun would set on each rank, and a fair share of threads."""
    hosts = [fact["host"] for fact in facts]
    environments: list[tuple[Any, ...]] = []
    for rank, fact in enumerate(facts):
        here = hosts.count(fact["host"])
        values = torchrun.environment(hosts, rank)
        defaults = {
            "OMP_NUM_THREADS": str(max(1, fact["cores"] // here)),
            # A wait in a store that is ended prints thirty lines of frames else.
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            **backend.environment,
        }
        if len(set(hosts)) == 1 and backend.loopback:
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
    backend: Backend,
    without_variables: Collection[int],
    whole: Sequence[int] = (),
) -> list[str]:
    """Say what is not as it was before a generation was formed.

    Parameters
    ----------
    formed : sequence of dict
        What the ranks returned.
    backend : Backend
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
    if problems and (backend.aborts or lost):
        lines.append(problems.pop())
    if lost:
        lines.append("groups made with new_group have ended; make them again")
    lines += sorted({line for fact in formed for line in fact["lines"]})
    kept = [fact["models"] for rank, fact in enumerate(formed) if rank not in without_variables]
    for name in sorted({name for models in kept for name in models}):
        if len({models[name] for models in kept if name in models}) > 1:
            sharded = any(models.get(name, "").startswith("sharded ") for models in kept)
            lines.append(_unequal(name, source, sharded))
    return lines


def _unequal(name: str, source: str, sharded: bool) -> str:
    """Say what to do with a model of which some ranks are a step ahead."""
    variable = re.split(r"[.\[]", name)[0]  # of trainer.model: trainer
    why = "some stopped before a step of the optimizer and some after it"
    if sharded:
        return (
            f"the parts of {name} that ranks hold are a step apart: {why}. Load a checkpoint, or "
            "make it anew on all ranks"
        )
    return (
        f"the parameters of {name} differ between ranks: {why}. Make them equal with: "
        f"%dipsync {source}{variable} and the name of the optimizer"
    )


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
    return [ranks.engine_ids[rank] for rank in order], backend_for(enough).name


def wait_until_idle(carrier: Carrier, ranks: Ranks, policy: Policy, announcer: Announcer) -> None:
    """Wait for the cell of a notebook that is gone; Ctrl-C ends it.

    Parameters
    ----------
    carrier : Carrier
        Carries out what that takes.
    ranks : Ranks
        All of them.
    policy : Policy
        How patient.
    announcer : Announcer
        Who waits.

    Raises
    ------
    DdippError
        When ranks do not react.
    """
    busy = [report for report in ranks.reports(stack=False) if report.state == "busy"]
    if busy:
        announcer.say(
            f"{ranks_text([one.rank for one in busy])} still run a cell "
            f"({busy[0].title or 'unknown'}, since {max(one.seconds for one in busy):.0f} s); "
            "waiting for its end, Ctrl-C ends it"
        )
    with Interrupts() as interrupts:
        stuck = end_leftover(carrier, range(len(ranks)), policy, interrupts)
    if stuck:
        raise DdippError(f"{ranks_text(stuck)} did not react to interrupts")


def end_leftover(
    carrier: Carrier,
    ranks: Collection[int],
    policy: Policy,
    interrupts: Interrupts | None = None,
) -> tuple[int, ...]:
    """Wait until ranks are idle, and return those that were given up.

    Parameters
    ----------
    carrier : Carrier
        Carries out what that takes.
    ranks : collection of int
        Which.
    policy : Policy
        How patient.
    interrupts : Interrupts, optional
        Of a user who waits for the end of what they run; they are interrupted at once without.
    """
    patient = interrupts is not None
    fate = Leftover(ranks, policy, carrier.conduct, time.monotonic(), patient=patient)
    while fate.pending:
        now = time.monotonic()
        if interrupts is not None and interrupts.take():
            fate.press(now)
        carrier.perform(fate.tick(now))
        if fate.wants_sights(now):
            carrier.look()
        if (sights := carrier.sights()) is not None:
            carrier.perform(fate.sights(sights, now))
        time.sleep(0.01)
    return fate.abandoned
