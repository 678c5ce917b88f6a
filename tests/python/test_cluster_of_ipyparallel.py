"""ipyparallel's own tests of its Cluster, with our launchers: by overriding their two fixtures."""

from __future__ import annotations

import inspect

import pytest
from ipyparallel.tests import test_cluster as theirs
from ipyparallel.tests.conftest import (  # noqa: F401  fixtures of theirs
    Cluster,
    cluster_config,
    ipython,
    ipython_dir,
)


@pytest.fixture
def engine_launcher_class() -> str:
    return "ddipp"


@pytest.fixture
def controller_launcher_class() -> str:
    return "ddipp"


for _name, _test in list(vars(theirs).items()):
    if _name.startswith("test_") and callable(_test):
        globals()[_name] = (
            pytest.mark.asyncio(_test) if inspect.iscoroutinefunction(_test) else _test
        )
    elif hasattr(_test, "_pytestfixturefunction") or type(_test).__name__.startswith("Fixture"):
        globals()[_name] = _test
