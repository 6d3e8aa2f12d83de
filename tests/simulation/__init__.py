"""A deterministic, seeded simulation of control planes, data planes, disks and a network.

It runs the real state machines and decisions of both planes. What is simulated is what is around
them: time, threads, the network, disks, the database, and the processes. `docs/simulation.md` says
how to run it and how to read a trace.
"""
