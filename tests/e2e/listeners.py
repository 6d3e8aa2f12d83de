"""Which processes of a data plane listen on TCP, and where: from the kernel's tables."""

from __future__ import annotations

import contextlib
from ipaddress import IPv6Address, ip_address

import psutil

from tests.e2e.stack import Stack


def outward_listeners(stack: Stack, *, with_process: str) -> set[tuple[str, str]]:
    """Title and address of each process of the data plane that listens beyond loopback.

    Args:
        stack: Its data plane.
        with_process: Beginning of the title of a process that listens, and so has to be among
            those that were looked at.
    """
    assert stack.dataplane.popen is not None
    launcher = psutil.Process(stack.dataplane.popen.pid)
    found = set()
    for process in (launcher, *launcher.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = process.cmdline()[0]
            listening = (one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
            found |= {(title, one.laddr.ip) for one in listening}
    assert any(title.startswith(with_process) for title, _ in found), found
    return {(title, ip) for title, ip in found if not _is_loopback(ip)}


def _is_loopback(ip: str) -> bool:
    address = ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None  # ::ffff:127.0.0.1
    return (mapped or address).is_loopback
