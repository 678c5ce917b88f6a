"""The Python half of the ddipp engine: an IPython kernel behind the C++ io thread.

``dipengine`` imports :mod:`ddipp_engine.main` in the interpreter that it hosts. The built-in module
``_ddipp_engine`` is the other half; it exists only there.
"""
