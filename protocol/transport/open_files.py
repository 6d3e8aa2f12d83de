"""How many files and connections a process may have open."""

from __future__ import annotations

import resource

_OTHER_FILES = 512
"""Files of a process besides the connections that it has accepted."""


def allow_connections(count: int) -> int:
    """Raise this process's limit of open files so that it can accept so many connections.

    Many systems start processes with a limit of 1,024. A server that has used it up can neither
    accept a connection nor open one of its own.

    Returns:
        How many of them fit, at least one. Only the system's administrator can raise the limit
        further.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return count if soft == resource.RLIM_INFINITY else max(1, min(count, soft - _OTHER_FILES))
