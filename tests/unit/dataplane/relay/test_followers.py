"""Whatever is put and removed, and whenever a watcher looks, it ends up with what there is."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dataplane.relay.errors import NotOwnerError
from dataplane.relay.state import Limits, RelayState
from dataplane.relay.topics import Key, Role, Topic, Writer
from tests.unit.dataplane.relay.follower import Follower

WRITERS = tuple(Writer(Role.ENGINE, name, 1) for name in ("r1", "r2"))
KEYS = tuple(Key(Topic.ENGINES, name) for name in ("a/1", "a/2", "b/1", "b/2"))
WATCHED = ((Topic.ENGINES,), (KEYS[0],), (KEYS[1], KEYS[2]), (Topic.SLEEP_ORDERS, KEYS[3]))
LIFETIME_S = 10.0


class RelayMachine(RuleBasedStateMachine):
    """Two writers, four keys, and followers of different things that look now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.state = RelayState(epoch="first", limits=Limits(removals_max=2, writer_lifetime_s=LIFETIME_S))
        self.model: dict[Key, bytes] = {}
        self.owners: dict[Key, Writer] = {}
        self.seen_at: dict[Writer, float] = {}
        self.followers = [Follower(self.state, watched) for watched in WATCHED]
        self.now = 0.0

    @rule(writer=st.sampled_from(WRITERS), key=st.sampled_from(KEYS), value=st.binary(max_size=2))
    def put(self, writer: Writer, key: Key, value: bytes) -> None:
        if self._is_refused(writer, key, {key: value}, []):
            return
        self.model[key], self.owners[key] = value, writer

    @rule(writer=st.sampled_from(WRITERS), key=st.sampled_from(KEYS))
    def remove(self, writer: Writer, key: Key) -> None:
        if not self._is_refused(writer, key, {}, [key]):
            self.model.pop(key, None)
            self.owners.pop(key, None)

    @rule(seconds=st.floats(0, LIFETIME_S))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        gone = [writer for writer, at in self.seen_at.items() if at < self.now - LIFETIME_S]
        lost = [key for key, owner in self.owners.items() if owner in gone]
        assert sorted(self.state.expire(self.now)) == sorted(lost)
        for key in lost:
            del self.model[key], self.owners[key]
        for writer in gone:
            del self.seen_at[writer]

    @rule(at=st.integers(0, len(WATCHED) - 1))
    def look(self, at: int) -> None:
        self.followers[at].look()
        watched = WATCHED[at]
        assert self.followers[at].values == {
            key: value for key, value in self.model.items() if key in watched or key.topic in watched
        }

    @invariant()
    def the_relay_has_what_was_put(self) -> None:
        assert self.state.changes([Topic.ENGINES], None).changed == self.model

    def _is_refused(self, writer: Writer, key: Key, values: dict[Key, bytes], removed: list[Key]) -> bool:
        """Whether the put was refused, which it is exactly if another writer owns the key."""
        try:
            self.state.put(writer, values, removed, self.now)
        except NotOwnerError:
            assert self.owners[key] is not writer
            return True
        assert self.owners.get(key, writer) is writer
        self.seen_at[writer] = self.now
        return False


TestRelayMachine = RelayMachine.TestCase
