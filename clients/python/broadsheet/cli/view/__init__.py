"""What the command line prints: one module for each kind of resource.

Owns tables, colours and the JSON form of results. Asks the control plane nothing, but for
`progress`, which shows a wait. May import the messages and `broadsheet.cli.session`.
"""
