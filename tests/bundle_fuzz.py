"""Reads and checks mutated bundles. Each is refused with a reason, or is what was exported.

`python -m tests.bundle_fuzz COUNT SEED` runs it with any size (`make fuzz-bundles`).
"""

from __future__ import annotations

import collections
import hashlib
import io
import random
import sys
import time
from collections.abc import Sequence

from broadsheet.v1 import route_pb2, snapshot_pb2
from protocol.bundles.content import Bundle, BundleError, check, read, write
from protocol.bundles.weights import files_of, has_weights, local_adapters, read_files
from protocol.catalog_digest import CatalogDigest, blob_digest
from protocol.signing.heads import sign_head, verify_head
from protocol.signing.signatures import SignatureError
from tests.raw import adapter, entry_proto, model, raws
from tests.signing import signer, verifier
from tests.views import api_key

COUNT = 100_000
_HASH_BYTES = 32


def written(bundle: Bundle) -> bytes:
    """The file of a bundle."""
    file = io.BytesIO()
    write(file, bundle)
    return file.getvalue()


def bundle(*more: snapshot_pb2.AdapterEntry, entries: Sequence[snapshot_pb2.Entry] = ()) -> Bundle:
    """A signed bundle with an entry of each kind, or with these entries."""
    route = snapshot_pb2.RouteEntry(name="routes/r", served_name="r")
    route.revision.spec.targets.append(route_pb2.RouteTarget(resource="models/a", weight=1))
    key = api_key("k", "bs-" + "k" * 43)
    found = tuple(entries) or tuple(
        map(entry_proto, raws(model("a"), model("b"), adapter("a", "x"), route, key, *more))
    )
    digest = CatalogDigest()
    for entry in found:
        digest = digest.added(entry.ref.name, entry.ref.type, entry.ref.digest)
    position = snapshot_pb2.Position(store_uid="store-a", revision=7, digest=digest.root())
    head = snapshot_pb2.SnapshotHead(position=position, entry_count=len(found))
    return Bundle(position=position, entries=found, signed_head=sign_head(signer(1), head).SerializeToString())


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The file with some damage; often with the hash that belongs to it."""
    altered = bytearray(content[:-_HASH_BYTES])
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(altered))
        match chance.randrange(5):
            case 0:
                altered[place] = chance.randrange(256)
            case 1:
                del altered[place : place + chance.randint(1, 40)]
            case 2:
                altered[place:place] = chance.randbytes(chance.randint(1, 40))
            case 3:
                other = chance.randrange(len(altered))
                altered[place:place] = altered[other : other + chance.randint(1, 80)]
            case _:
                del altered[place:]
        if not altered:
            return b""
    kept = chance.random() < 0.8
    return bytes(altered) + (hashlib.sha256(altered).digest() if kept else content[-_HASH_BYTES:])


def forged(original: Bundle, chance: random.Random) -> bytes:
    """The file of a bundle with other content, made by somebody who knows the format."""
    entries = [snapshot_pb2.Entry.FromString(entry.SerializeToString()) for entry in original.entries]
    for _ in range(chance.randint(1, 3)):
        entry = chance.choice(entries)
        match chance.randrange(5):
            case 0:
                entry.blob = chance.choice(entries).blob
            case 1:
                message = snapshot_pb2.ModelEntry(name=entry.ref.name, served_name="evil")
                message.revision.spec.source.uri = f"file:///evil/{chance.random()}"
                entry.blob = message.SerializeToString(deterministic=True)
            case 2:
                entry.ref.name = chance.choice((f"models/m{chance.randrange(9)}", "apiKeys/other", "routes/a"))
            case 3:
                entry.blob = b""
            case _:
                entries.remove(entry)
        if not entries:
            break
    if chance.random() < 0.8:
        for entry in entries:
            entry.ref.digest = blob_digest(entry.blob)
    if chance.random() < 0.8:
        entries.sort(key=lambda entry: entry.ref.name)
    position = original.position
    if chance.random() < 0.8:
        digest = CatalogDigest()
        for entry in entries:
            digest = digest.added(entry.ref.name, entry.ref.type, entry.ref.digest)
        position = snapshot_pb2.Position(
            store_uid=position.store_uid, revision=chance.choice((7, 8)), digest=digest.root()
        )
    signed_head = original.signed_head
    if chance.random() < 0.3:
        head = snapshot_pb2.SnapshotHead(position=position, entry_count=len(entries))
        signed_head = sign_head(signer(2), head).SerializeToString()
    return written(Bundle(position=position, entries=tuple(entries), signed_head=signed_head))


def outcome(content: bytes, original: Bundle) -> str:
    """What became of a file: a reason, or `same`.

    Raises:
        AssertionError: It was taken although it says something else than what was signed.
    """
    try:
        file = io.BytesIO(content)
        found = read(file)
        messages = check(found)
        if has_weights(file):
            for _, blocks in read_files(file, files_of(local_adapters(messages))):
                list(blocks)
        verify_head(verifier(1), found.signed_head, found.position, len(found.entries))
    except (BundleError, SignatureError) as error:
        return error.reason
    assert found.position == original.position, found
    refs = [entry.ref.SerializeToString(deterministic=True) for entry in found.entries]
    assert refs == [entry.ref.SerializeToString(deterministic=True) for entry in original.entries], found
    return "same"


def fuzz(count: int, seed: int) -> collections.Counter[str]:
    """How often each outcome came."""
    chance = random.Random(seed)
    original = bundle()
    content = written(original)

    def attempt() -> bytes:
        return mutated(content, chance) if chance.random() < 0.7 else forged(original, chance)

    return collections.Counter(outcome(attempt(), original) for _ in range(count))


def main(arguments: Sequence[str]) -> None:
    count = int(arguments[0]) if arguments else COUNT
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(2**31)
    print(f"{count} bundles, seed {seed}", flush=True)  # noqa: T201
    began = time.monotonic()
    outcomes = fuzz(count, seed)
    for reason, times in outcomes.most_common():
        print(f"{times:8} {reason}")  # noqa: T201
    print(f"{time.monotonic() - began:.0f} s; nothing else was taken for what was signed")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
