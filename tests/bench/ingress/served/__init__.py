"""The programs that answer requests: the mock engine, our ingress, and Ray Serve's own path.

It owns their catalogs too. Each program runs as a process of its own, which `subjects` starts.
"""
