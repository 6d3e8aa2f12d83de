"""Which of the names that data planes report are in the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from sqlalchemy import select, tuple_

from controlplane.store.databases.connection import Statements
from controlplane.store.reading import Reading
from controlplane.store.schema import entries, model_revisions
from protocol import names


class ReportedNames:
    """Looks names up in the entry history. Every method raises errors.Unavailable when it fails."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def in_catalog(self, reported: Sequence[str], since_revision: int) -> AbstractSet[str]:
        """Those of `reported` that are in a kept snapshot from `since_revision` on.

        A revision that is rolled out has no entry of its own. Its name counts if it is a revision
        of a model in such a snapshot.

        Args:
            reported: Resource names, at most 1000; any text without NUL.
            since_revision: Of the catalog.
        """
        async with self._reading.begin() as connection:
            found = await _held(connection, reported, since_revision)
            rest = [name for name in reported if name not in found]
            return found | await _model_revisions(connection, rest, since_revision)


async def _held(connection: Statements, reported: Sequence[str], since_revision: int) -> AbstractSet[str]:
    query = (
        select(entries.c.name)
        .where(entries.c.name.in_(reported), entries.c.to_revision.is_(None) | (entries.c.to_revision > since_revision))
        .distinct()
    )
    return set((await connection.execute(query)).scalars())


async def _model_revisions(connection: Statements, reported: Sequence[str], since_revision: int) -> AbstractSet[str]:
    asked = {target.name: target for target in map(_model_revision, reported) if target is not None}
    if not asked:
        return set()
    models = await _held(connection, sorted({target.resource for target in asked.values()}), since_revision)
    keys = [(target.model_id, target.number) for target in asked.values() if target.resource in models]
    row = model_revisions.c
    query = select(row.model_id, row.number).where(tuple_(row.model_id, row.number).in_(keys))
    found = (await connection.execute(query)).all() if keys else ()
    return {names.model_revision_name(held.model_id, held.number) for held in found}


def _model_revision(name: str) -> names.Target | None:
    try:
        target = names.parse_target(name)
    except ValueError:
        return None
    return target if target.adapter_id is None and target.number is not None else None
