"""Modules of Lightning: one that was copied knows its metrics by the addresses that they had."""

from __future__ import annotations

import sys
from typing import Any

from .known import Known

_modules = Known()


def watch() -> None:
    """Know all modules from their creation."""
    for name in ("lightning.pytorch.core.module", "pytorch_lightning.core.module"):
        if name in sys.modules:
            _modules.watch(sys.modules[name].LightningModule)


def renew(default_before: Any, told: list[dict[str, Any]]) -> list[str]:
    """Let modules look for their metrics again when they are asked."""
    for module in _modules.objects():
        if module.__dict__.get("_metric_attributes") is not None:
            module._metric_attributes = None
    return []
