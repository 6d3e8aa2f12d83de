"""Real processes that are killed, stopped and cut off while changes are pushed.

`python -m tests.push_faults` runs every fault and prints a table (`docs/push-faults.md`). It owns
the processes that end themselves at named points, and a proxy that loses what it passes on.
"""
