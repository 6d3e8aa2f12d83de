"""Why a data plane is not launched, shown or stopped. Pure."""

from __future__ import annotations


class LaunchRefused(Exception):
    """It is not possible as things are. The message says what stands against it."""
