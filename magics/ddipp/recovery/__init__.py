"""What is done at a fault, decided without a clock, a socket, a signal or a process.

Events with their time go in, actions come out. The drivers in :mod:`ddipp.group` carry the actions
out; ``tests/python/test_recovery_nemesis.py`` does it with simulated ranks.
"""
