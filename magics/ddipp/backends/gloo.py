"""Gloo: CPU ranks, joined by TCP connections that can be shut down."""

from __future__ import annotations

from .base import Backend

GLOO = Backend(name="gloo", spec="gloo")
