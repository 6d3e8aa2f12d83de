"""How fast something grows, by least squares. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def slope(points: Sequence[tuple[float, float]]) -> float:
    """By how much y rises with each unit of x, on the line with the least squared errors.

    Args:
        points: x and y of at least two points that do not all have the same x.

    Raises:
        ValueError: There are fewer.
    """
    if len({x for x, _ in points}) < 2:
        raise ValueError(f"points: got {len(points)} at the same x, at least two are needed")
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    squares = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / squares


def second_half(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """The points from the middle of the time on: before it, caches and pools fill."""
    if not points:
        return points
    middle = (points[0][0] + points[-1][0]) / 2
    return [point for point in points if point[0] >= middle]
