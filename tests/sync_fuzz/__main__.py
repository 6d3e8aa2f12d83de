"""`python -m tests.sync_fuzz COUNT SEED` damages so many messages in each direction."""

from __future__ import annotations

import random
import sys
import time

from tests.sync_fuzz.pair import Pair

STEPS_PER_PAIR = 2000
"""Then the pair has to settle, and another one begins."""


def fuzz(count: int, seed: int) -> str:
    """Damage `count` messages to each end; returns what was counted.

    Raises:
        AssertionError: something invalid was activated, a refused message changed something, or a
            pair did not settle.
    """
    requests = responses = violations = activated = 0
    while min(requests, responses) < count:
        pair = Pair(seed)
        for _ in range(STEPS_PER_PAIR):
            pair.step()
            if min(requests + pair.requests, responses + pair.responses) >= count:
                break
        pair.settle()
        requests, responses = requests + pair.requests, responses + pair.responses
        violations, activated = violations + pair.violations, activated + pair.activated
        seed += 1
    return (
        f"{requests} damaged SyncRequests, {responses} damaged SyncResponses: {violations} violations, "
        f"{activated} snapshots activated, all of them committed ones"
    )


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1_000_000)
    sys.stdout.write(f"seed {seed}\n")
    began_s = time.monotonic()
    counted = fuzz(count, seed)
    sys.stdout.write(f"{time.monotonic() - began_s:.0f} s: {counted}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
