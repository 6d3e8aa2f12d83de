"""The commands: one module for each group, such as `model`, and for each single command.

Owns flags, arguments and what they become. May import the client, `broadsheet.cli.view`, and the
modules beside this package; only `broadsheet.cli` imports it.
"""
