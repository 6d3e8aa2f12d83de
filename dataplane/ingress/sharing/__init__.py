"""The ingress replicas of a node share their connections evenly.

The kernel gives a new connection to any of them. This package moves it, before a byte is read, to
the one with the fewest. It owns the listeners of a replica, what the replicas of a node know of
each other, and connections on their way between two of them. It may import `dataplane.openai`.
"""
