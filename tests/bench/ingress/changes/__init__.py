"""What changes of a large snapshot do to the latency of requests (`--part changes`).

A publisher does what an agent does with an accepted snapshot, in a process of its own, and an
ingress process follows it as an ingress replica does: by the real relay, over a Unix socket instead
of Ray. It owns both processes (`publisher`, `follower`), the socket (`link`) and the comparison
(`changing`).
"""
