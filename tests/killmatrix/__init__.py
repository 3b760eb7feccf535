"""Ranks of a real group, ended at each phase of their lives: by SIGKILL and by SIGTERM.

``phases`` brings a group to a phase, ``cells`` ends a rank there and looks at what becomes of the
group. ``python -m tests.killmatrix`` (``make kill-matrix``) goes through all of them, and prints
the tables that ``docs/faults.md`` keeps.
"""
