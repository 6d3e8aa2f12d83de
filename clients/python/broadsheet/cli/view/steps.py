"""Steps of an apply or an import."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from broadsheet.applying import Action, Step
from broadsheet.cli.view import changes
from protocol.field_changes import ABSENT

_SIGNS = {Action.CREATE: ("+", "green"), Action.CHANGE: ("~", "yellow"), Action.DELETE: ("-", "red")}


def steps_view(steps: Sequence[Step], what: str, *, nothing: str) -> RenderableType:
    """The steps, field by field.

    Args:
        steps: Those that change something.
        what: What becomes or became of them, after their number.
        nothing: What to say without any.
    """
    lines: list[Text] = []
    for step in steps:
        sign, style = _SIGNS[step.action]
        lines.append(Text(f"{sign} {step.name}", style=style))
        for field in step.fields:
            before, after = (
                changes.UNSET if side is ABSENT else changes.shown(side) for side in (field.before, field.after)
            )
            lines.append(Text("    ").append_text(changes.field_line(field.path, before, after)))
    if not lines:
        return Text(nothing, style="dim")
    return Group(*lines, Text(f"{len(steps)} {what}", style="dim"))


def steps_json(steps: Sequence[Step], *, applied: bool) -> dict[str, object]:
    """The steps for programs.

    Args:
        steps: Those that change something.
        applied: Whether they were carried out.
    """
    return {
        "applied": applied,
        "changes": [
            {
                "action": step.action.value,
                "name": step.name,
                "fields": [
                    {
                        "path": field.path,
                        **({"before": field.before} if field.before is not ABSENT else {}),
                        **({"after": field.after} if field.after is not ABSENT else {}),
                    }
                    for field in step.fields
                ],
            }
            for step in steps
        ],
    }
