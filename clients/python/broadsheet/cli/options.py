"""Options and groups of options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from broadsheet import specs
from broadsheet.cli import pairs

FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", metavar="FILE.yaml", help="Take everything from a YAML spec; - for stdin.", show_default=False
    ),
]
LabelOption = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label. Repeatable.")]
ServedNameOption = Annotated[str | None, typer.Option(help="Name for callers; '' for the default.")]
RevisionArgument = Annotated[int, typer.Argument(metavar="REVISION", min=1, help="Number of an earlier revision.")]
EtagOption = Annotated[
    str, typer.Option(metavar="ETAG", help="As `get` showed it: refuse when somebody has changed it since.")
]
ValidateOption = Annotated[bool, typer.Option("--validate-only", help="Check everything, and write nothing.")]
WaitTimeoutOption = Annotated[
    float, typer.Option("--wait-timeout", metavar="SECONDS", min=0, help="How long to --wait.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which resources a list shows, and in which order."""

    filter_: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="FILTER",
            help="Which ones: comparisons of labels.KEY, state, owner, served_name and ids, with AND, OR, NOT and "
            "parentheses, such as 'labels.env = prod AND state = FAILED'. A * begins or ends a value; labels.KEY:* "
            "asks whether there is the label.",
        ),
    ] = ""
    order_by: Annotated[
        str,
        typer.Option(
            "--order-by",
            metavar="FIELDS",
            help="Sort by name, served_name, create_time or update_time, such as 'create_time desc'.",
        ),
    ] = ""
    show_deleted: Annotated[bool, typer.Option("--show-deleted", help="Deleted ones too.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """How to register."""

    etag: EtagOption = ""
    must_create: Annotated[bool, typer.Option("--must-create", help="Refuse when it exists.")] = False
    validate_only: ValidateOption = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Whether to wait until the data planes serve the result."""

    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until every connected data plane serves it; fail with the reason.")
    ] = False
    wait_timeout: WaitTimeoutOption = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsChange:
    """New labels for a resource."""

    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="All of its labels from now on. Repeatable."),
    ] = None
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Take all labels away.")] = False

    def labels(self) -> dict[str, str] | None:
        """The new labels. None: keep the old ones.

        Raises:
            typer.BadParameter: Both flags are given, or a label is not KEY=VALUE.
        """
        if self.no_labels and self.label:
            raise typer.BadParameter("leave out one of the two", param_hint="--label --no-labels")
        if self.no_labels:
            return {}
        return pairs.labels(self.label) if self.label else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardChange:
    """Changed fields of a model's or adapter's card."""

    display_name: Annotated[str | None, typer.Option(help="A name for people; '' for none.")] = None
    description: Annotated[str | None, typer.Option(help="What it is good for; '' for none.")] = None
    owned_by: Annotated[str | None, typer.Option(help="Who owns it; '' for none.")] = None
    license_: Annotated[str | None, typer.Option("--license", help="SPDX identifier; '' for none.")] = None

    def fields(self) -> dict[str, object]:
        """The fields that are given."""
        return given(
            display_name=self.display_name,
            description=self.description,
            owned_by=self.owned_by,
            license=self.license_,
        )


def given(**flags: object) -> dict[str, object]:
    """The flags that are not None."""
    return {name: value for name, value in flags.items() if value is not None}


def seconds(text: str, flag: str) -> float:
    """A length of time such as `30m` or `1h`, in seconds.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        return specs.parse_duration(text).ToTimedelta().total_seconds()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from error


def without_empty(fields: dict[str, object]) -> dict[str, object]:
    """`fields` without None and empty mappings, which no flag set. `args` is kept as it is."""
    kept = {
        key: without_empty(value) if isinstance(value, dict) and key != "args" else value
        for key, value in fields.items()
    }
    return {key: value for key, value in kept.items() if value is not None and value != {}}


def refuse_with_file(flags: dict[str, object]) -> None:
    """Refuse flags beside --file: either could be meant to hold.

    Raises:
        typer.BadParameter: There are some.
    """
    if flags:
        raise typer.BadParameter(
            "everything comes from the file; leave out the id and the other flags", param_hint="--file"
        )
