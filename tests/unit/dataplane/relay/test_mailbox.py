from __future__ import annotations

from dataplane.relay.mailbox import Mailbox


def mailbox(*, messages_max: int = 4, bytes_max: int = 100, batch_max: int = 3) -> Mailbox:
    return Mailbox(messages_max=messages_max, bytes_max=bytes_max, batch_max=batch_max)


def test_messages_are_taken_once_in_order() -> None:
    box = mailbox()
    box.add([b"1", b"2"])
    first = box.take(0)
    assert first.messages == (b"1", b"2")
    box.add([b"3"])
    second = box.take(first.taken_to)
    assert second.messages == (b"3",)
    assert box.take(second.taken_to).messages == ()
    assert len(box) == 0


def test_messages_that_were_not_acknowledged_are_taken_again() -> None:
    box = mailbox()
    box.add([b"1", b"2"])
    box.take(0)
    assert box.take(0).messages == (b"1", b"2")


def test_a_batch_is_bounded() -> None:
    box = mailbox()
    box.add([b"1", b"2", b"3", b"4"])
    first = box.take(0)
    assert first.messages == (b"1", b"2", b"3")
    assert box.take(first.taken_to).messages == (b"4",)


def test_a_full_mailbox_drops_its_oldest_messages_and_counts_them() -> None:
    box = mailbox()
    box.add([b"1", b"2"])
    taken = box.take(0)
    box.add([b"3", b"4", b"5", b"6"])
    mail = box.take(taken.taken_to)
    assert (mail.messages, mail.dropped) == ((b"3", b"4", b"5"), 2)
    assert box.take(mail.taken_to).messages == (b"6",)


def test_bytes_are_bounded_too() -> None:
    box = mailbox(bytes_max=10)
    box.add([b"12345678", b"1234"])
    assert (box.take(0).messages, box.take(0).dropped) == ((b"1234",), 1)
    box.add([b"larger than the mailbox"])
    assert len(box) == 0
