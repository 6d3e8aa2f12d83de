"""What a command that writes did, in one line."""

from __future__ import annotations

from broadsheet.cli.session import Session
from broadsheet.cli.view import results


def registered(
    session: Session, result: object, what: str, catalog_revision: int, created: bool, validate_only: bool
) -> None:
    """Show what a registration did.

    Args:
        session: Where to print.
        result: The response as a JSON value.
        what: The resource and its revision.
        catalog_revision: The catalog revision after it.
        created: Whether there is a new revision.
        validate_only: Whether nothing was written.
    """
    if validate_only:
        done = f"{what} would be registered; nothing was written" if created else f"{what} would stay as it is"
    elif created:
        done = f"{what} registered; catalog revision {catalog_revision}"
    else:
        done = f"{what} exists already; catalog revision {catalog_revision}"
    results.show(session, result, done)


def deleted(session: Session, result: object, what: str, catalog_revision: int, validate_only: bool) -> None:
    """Show what a delete did; the arguments are those of `registered`."""
    done = f"{what} would be deleted" if validate_only else f"{what} deleted; catalog revision {catalog_revision}"
    results.show(session, result, done)


def changed(session: Session, result: object, what: str, done: str, catalog_revision: int, validate_only: bool) -> None:
    """Show what a change did, such as `updated`; the other arguments are those of `registered`."""
    text = f"{what} would be {done}; nothing was written" if validate_only else f"{what} {done}"
    results.show(session, result, text if validate_only else f"{text}; catalog revision {catalog_revision}")
