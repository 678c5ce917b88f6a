"""What ``ipyparallel.engine.app.IPEngine.instance()`` is in this process."""

from __future__ import annotations

import atexit
import os
import types
from typing import Any

import _ddipp_engine as host


def offer_application(options: dict[str, Any], module: types.ModuleType) -> None:
    """Let ``IPEngine.instance()`` find this engine, and with it ``ipyparallel.bind_kernel()``.

    Called when somebody has imported ``ipyparallel.engine.app``, which costs as much as the whole
    client: the engine itself does without.
    """
    import traitlets
    from ipykernel.kernelapp import IPKernelApp

    from .kernel import EngineKernel

    class EngineApplication(module.IPEngine):  # type: ignore[name-defined,misc]
        """IPEngine of an engine whose sockets are the io thread's."""

        kernel = traitlets.Any()  # its kernel is of another class

        def bind_kernel(self, **kwargs: Any) -> str:
            """Listen for Jupyter frontends of this machine; returns the connection file."""
            return bind_kernel(self)

    kernel = EngineKernel.instance()
    app = IPKernelApp.instance()
    connection = options["connection"]
    engine = EngineApplication(log=kernel.log)
    engine.config = app.config
    engine.profile_dir = app.profile_dir
    engine.id = kernel.engine_id
    engine.ident = options["uuid"]
    engine.session = kernel.session
    engine.kernel = kernel
    engine.kernel_app = app
    engine.connection_info = connection
    engine.url_file = options["connection_source"]
    engine.registration_url = f"{connection['interface']}:{connection['registration']}"
    kernel.parent = engine
    module.IPEngine._instance = engine


def bind_kernel(engine: Any) -> str:
    """Let the io thread listen as a kernel, once, and write the file that says where."""
    from jupyter_client.connect import write_connection_file

    app = engine.kernel_app
    if not engine._kernel_bound:
        shell, iopub, stdin, control, heartbeat = host.bind_kernel()
        folder = engine.profile_dir.security_dir
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, f"kernel-{os.getpid()}.json")
        write_connection_file(
            path,
            shell_port=shell,
            iopub_port=iopub,
            stdin_port=stdin,
            control_port=control,
            hb_port=heartbeat,
            ip="127.0.0.1",
            key=engine.connection_info.get("key", "").encode(),
            signature_scheme=engine.connection_info.get("signature_scheme", "hmac-sha256"),
        )
        atexit.register(lambda: os.path.exists(path) and os.unlink(path))
        app.connection_file = path  # for %connect_info and ipykernel.connect
        engine._kernel_bound = True
        print(f"To attach a console: jupyter console --existing {path}")
    return str(app.connection_file)
