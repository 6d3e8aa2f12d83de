"""What a launcher leaves on a Ray cluster, so that a later one can tell what runs there. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

ENGINE_TLS = ("engine_tls_cert", "engine_tls_key", "engine_tls_ca", "engine_tls_server_name")
"""Settings that the engines which run have taken, and keep."""
_SCALING = ("ingress_replicas", "ingress_replicas_max")
"""A change of them starts or stops ingress replicas, and replaces none."""
_EVERY_ADDRESS = ("0.0.0.0", "[::]")  # noqa: S104  # compared with, not listened on


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRecord:
    """One data plane on a cluster, as its last launcher wanted it."""

    release: str
    """Of Broadsheet, at the launcher."""
    settings: Mapping[str, str]
    """Each setting as text. A secret is a digest."""
    attempt: int = 0
    """Rises when the same settings are deployed again because the last attempt failed: Ray Serve
    does not try a version twice."""

    @property
    def version(self) -> str:
        """Changes with everything that needs new replicas of the agent and the ingress."""
        kept = {name: value for name, value in self.settings.items() if name not in _SCALING}
        identity = json.dumps([self.release, kept, self.attempt], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps({"release": self.release, "settings": dict(self.settings), "attempt": self.attempt})

    @classmethod
    def from_json(cls, text: str) -> LaunchRecord:
        """A stored record.

        Raises:
            ValueError: It is none.
        """
        stored = json.loads(text)
        try:
            settings = {str(name): str(value) for name, value in stored["settings"].items()}
            return cls(release=str(stored["release"]), settings=settings, attempt=int(stored["attempt"]))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a record of a data plane: {error}") from error


def differences(running: LaunchRecord, asked: LaunchRecord) -> tuple[str, ...]:
    """What a launcher asks for that is not so yet, each as `name: before → after`."""
    found = [] if running.release == asked.release else [f"release: {running.release} → {asked.release}"]
    for name in sorted(running.settings.keys() | asked.settings.keys()):
        before, after = running.settings.get(name, "unset"), asked.settings.get(name, "unset")
        if before != after:
            found.append(f"{name}: {before} → {after}")
    return tuple(found)


def refusal(
    data_plane_id: str, asked: LaunchRecord, running: LaunchRecord | None, others: Mapping[str, LaunchRecord]
) -> str | None:
    """Why a data plane cannot be launched as asked for. None: it can be.

    Args:
        data_plane_id: Its id.
        asked: What the launcher wants.
        running: What runs under this id. None: nothing.
        others: The other data planes of the cluster, by id.
    """
    if running is not None:
        for name in ENGINE_TLS:
            before, after = running.settings.get(name, ""), asked.settings.get(name, "")
            if before != after:
                return (
                    f"{name}: got {after or 'none'!s}, and the engines of data plane {data_plane_id}, which runs on "
                    f"this cluster, were started with {before or 'none'!s}; run `broadsheet dataplane stop` first"
                )
    for other, record in sorted(others.items()):
        if _same_listener(asked.settings["http"], record.settings.get("http", "")):
            return f"http: got {asked.settings['http']}, where data plane {other} of this cluster listens"
        if asked.settings["data_dir"] == record.settings.get("data_dir"):
            return f"data_dir: got {asked.settings['data_dir']}, which data plane {other} of this cluster uses"
    return None


def _same_listener(one: str, other: str) -> bool:
    # Ingress replicas share their port. Two data planes on one would get each other's requests.
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    return port == other_port and (host == other_host or host in _EVERY_ADDRESS or other_host in _EVERY_ADDRESS)
