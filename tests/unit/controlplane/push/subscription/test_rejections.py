from __future__ import annotations

from controlplane.push.subscription.rejections import REJECTED_MAX, Rejections
from tests.unit.controlplane.push.subscription.client import at


def test_the_oldest_rejections_are_forgotten() -> None:
    rejections = Rejections()
    for revision in range(REJECTED_MAX + 1):
        rejections.add(at(revision))
    assert at(0) not in rejections
    assert all(at(revision) in rejections for revision in range(1, REJECTED_MAX + 1))
