"""`broadsheet audit`"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice, takewhile
from typing import Annotated

import typer
import yaml
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from broadsheet.cli.session import Output, Session
from broadsheet.cli.view import changes, results
from broadsheet.client import Client
from broadsheet.types import AuditEvent

FOLLOW_INTERVAL_S = 1.0
"""Time between two polls for new events."""

_TimeOption = typer.Option(metavar="TIME", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"])


def audit(
    session: Session,
    *,
    resource: Annotated[str, typer.Option(help="A model, MODEL/ADAPTER, or any resource name.")] = "",
    principal: Annotated[str, typer.Option(help="Who made the change.")] = "",
    method: Annotated[str, typer.Option(help="Such as RegisterModel.")] = "",
    since_revision: Annotated[int | None, typer.Option(min=0, help="The lowest catalog revision.")] = None,
    until_revision: Annotated[int | None, typer.Option(min=0, help="The highest catalog revision.")] = None,
    since: Annotated[datetime | None, _TimeOption] = None,
    until: Annotated[datetime | None, _TimeOption] = None,
    limit: Annotated[int, typer.Option(min=1, help="Events at most, the newest.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Then show new events as they come, oldest first.")] = False,
) -> None:
    """Show who changed what, when and from where, newest first. Secrets are redacted."""
    with session.client() as client:

        def matching(min_revision: int | None) -> Iterator[AuditEvent]:
            return client.list_audit_events(
                resource=resource,
                principal=principal,
                method=method,
                min_revision=min_revision,
                max_revision=until_revision,
                start_time=since,
                end_time=until,
            )

        # Read before the events, so that an event between the two calls is not missed.
        newest = (_head(client), 0) if follow else (0, 0)
        events = list(islice(matching(since_revision), limit))
        if not follow:
            results.show(session, results.to_list("events", events), events_table(events))
            return
        newest = _key(events[0]) if events else newest
        _print(session, events[::-1])
        while True:
            time.sleep(FOLLOW_INTERVAL_S)
            events = _after(newest, matching(newest[0]))
            _print(session, events[::-1])
            newest = _key(events[0]) if events else newest


def events_table(events: Sequence[AuditEvent]) -> RenderableType:
    """Audit events, one per row."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("REVISION", "WHEN", "WHO", "FROM", "METHOD", "RESOURCE", "CHANGE"):
        table.add_column(column, overflow="fold")
    for event in events:
        table.add_row(*_cells(event))
    return table if table.row_count else Text("no events", style="dim")


def _cells(event: AuditEvent) -> tuple[Text, ...]:
    who = event.principal.name + (f" ({event.principal.role})" if event.principal.role else "")
    made = event.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")
    facts = (str(event.catalog_revision), made, who, event.address or "-", event.method, event.resource or "-")
    return (*map(Text, facts), changes.summary(event.changes, event.change_count))


def _key(event: AuditEvent) -> tuple[int, int]:
    """Where an event is in the log."""
    return event.catalog_revision, event.operation


def _after(key: tuple[int, int], newest_first: Iterator[AuditEvent]) -> list[AuditEvent]:
    """The events that are later in the log."""
    return list(takewhile(lambda event: _key(event) > key, newest_first))


def _head(client: Client) -> int:
    return next(client.list_snapshots()).position.revision


def _print(session: Session, events: Sequence[AuditEvent]) -> None:
    """Print each event at once, also into a pipe."""
    for event in events:
        if session.output is Output.TABLE:
            session.stdout.print(Text("  ").join(_cells(event)[:-1]))
            for line in changes.change_lines(event.changes):
                session.stdout.print(Text("  ").append_text(line), soft_wrap=True)
        elif session.output is Output.JSON:
            session.stdout.file.write(json.dumps(results.to_json(event), ensure_ascii=session.escapes) + "\n")
        else:
            session.stdout.file.write("---\n")
            yaml.safe_dump(
                results.to_json(event), session.stdout.file, sort_keys=False, allow_unicode=not session.escapes
            )
        session.stdout.file.flush()
