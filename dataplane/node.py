"""Where the replicas of this data plane listen: on the address of their Ray node, and no other.

A data plane that has started its own Ray is on loopback; a node of a joined cluster has the address
by which the other nodes reach it.
"""

from __future__ import annotations

import os
from typing import Any

import ray


def node_address() -> str:
    """The address of this process's Ray node, without brackets."""
    address: str = ray.util.get_node_ip_address()
    return address


def cores_beside(accelerators: float) -> int:
    """The cores of this process's node that fall to a replica with so many of its accelerators.

    Ray reserves CPUs only by name, so this is a share of what the node has, and not a limit. The
    kernel tells of all cores of the machine. Ray knows what a container may use of them, but may
    also have been told to offer none.
    """
    own = ray.get_runtime_context().get_node_id()
    of_node: dict[str, float] = next((node["Resources"] for node in ray.nodes() if node["NodeID"] == own), {})
    cores = len(os.sched_getaffinity(0))
    cores = min(cores, int(of_node.get("CPU", 0)) or cores)
    share = accelerators / of_node["GPU"] if of_node.get("GPU") else 1.0
    return int(cores * min(1.0, share))


def keep_serve_on_node() -> None:
    """Make Ray Serve's own server in this replica listen on the node's address only.

    Call it in the constructor of a deployment's class: the server starts after that. It unpickles
    what it is sent, so whoever reaches it can run code. Ray Serve binds it to every address of the
    machine, without a setting for it, and does not ask for Ray's token.
    """
    from ray.serve._private import replica

    add_port = replica.add_port_to_grpc_server
    address = node_address()
    host = f"[{address}]" if ":" in address else address

    def on_node(server: Any, _: str) -> int:
        port: int = add_port(server, f"{host}:0")
        return port

    replica.add_port_to_grpc_server = on_node
