"""What callers see of a database that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from controlplane import errors


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn a failure of the database into `errors.Unavailable`.

    A broken constraint is a bug in the store, so it is passed on as it is.
    """
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, OSError, PoolTimeoutError, TimeoutError) as error:
        # The driver raises OSError when it cannot reach the server, and TimeoutError when the
        # server does not answer.
        raise errors.Unavailable(
            errors.Reason.STORE_UNAVAILABLE, "the registry's database does not answer as it should; try again"
        ) from error
