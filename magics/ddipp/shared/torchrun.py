"""The environment that torchrun gives to its processes."""

from __future__ import annotations

from collections.abc import Sequence


def environment(hosts: Sequence[str], rank: int) -> dict[str, str]:
    """Return the variables of a rank, but for the address of the store.

    Parameters
    ----------
    hosts : sequence of str
        Of each rank.
    rank : int
        Whose.
    """
    nodes = list(dict.fromkeys(hosts))
    here = hosts.count(hosts[rank])
    world_size = str(len(hosts))
    return {
        "RANK": str(rank),
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": str(list(hosts[:rank]).count(hosts[rank])),
        "LOCAL_WORLD_SIZE": str(here),
        "GROUP_RANK": str(nodes.index(hosts[rank])),
        "GROUP_WORLD_SIZE": str(len(nodes)),
        "ROLE_NAME": "default",
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": world_size,
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        # Ours is the store at MASTER_ADDR:MASTER_PORT: a rank that forms a group is its client.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
