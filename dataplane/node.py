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

    Ray reserves CPUs only by name, so this is a share of what the node has, and not a limit.
    """
    cores = len(os.sched_getaffinity(0))
    own = ray.get_runtime_context().get_node_id()
    of_node = next((node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["NodeID"] == own), 0.0)
    return int(cores * min(1.0, accelerators / of_node)) if of_node else cores


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
