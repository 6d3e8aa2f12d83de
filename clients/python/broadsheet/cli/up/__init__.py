"""`broadsheet up`: both planes on this machine, and the demo.

Owns the child processes: how they are started, watched and stopped. May import the other modules
of the command line, the client and `broadsheet.demo`; only `broadsheet.cli` imports it.
"""
