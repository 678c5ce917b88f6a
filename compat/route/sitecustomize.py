"""Puts other programs in the place of ipyparallel's controller and engine.

On PYTHONPATH of a test run it sees ``python -m ipyparallel.controller`` or ``…engine`` at the start
of the interpreter and becomes the program that ``DDIPP_ROUTE_CONTROLLER`` or
``DDIPP_ROUTE_ENGINE`` names, with the same arguments, environment, streams and pid. No test is
changed.
"""

import os
import sys

_ROUTES = {
    "ipyparallel.controller": "DDIPP_ROUTE_CONTROLLER",
    "ipyparallel.engine": "DDIPP_ROUTE_ENGINE",
}

_arguments = sys.orig_argv[1:]
if len(_arguments) >= 2 and _arguments[0] == "-m" and _arguments[1] in _ROUTES:
    _program = os.environ.get(_ROUTES[_arguments[1]])
    if _program:
        _command = [_program, *_arguments[2:]]
        if _arguments[1] == "ipyparallel.engine":
            _command += ["--python", sys.executable]
        os.execv(_program, _command)
