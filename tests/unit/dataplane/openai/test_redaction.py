from __future__ import annotations

import time

import pytest

from dataplane.openai.redaction import redact


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("No such file: /data/models/smol/config.json", "No such file: <path>"),
        ("can't open '/my models/smol' now", "can't open <path> now"),
        ("cannot open ~/weights.bin.", "cannot open <path>"),
        ("in vllm/engine/core.py, line 3", "in <path>, line 3"),
        ("HTTPError for https://hub.example/api/x?token=1 (404)", "HTTPError for <url> (404)"),
        ("source file:///srv/m is not there", "source <url> is not there"),
        ("connect to 10.0.0.7:6379 failed", "connect to <address> failed"),
        ("connect to [fe80::1%eth0]:80 failed", "connect to <address> failed"),
        ("peer fe80:0:0:0:1:2:3:4 left", "peer <address> left"),
        ("host gpu-3.rack1.internal said no", "host <address> said no"),
        ("raylet at node17:6379 is gone", "raylet at <address> is gone"),
        ("token hf_abcdefghijklmnopqrst is invalid", "token <secret> is invalid"),
        ("sent Authorization: Bearer abc.def", "sent Authorization: <secret>"),
        (r"C:\models\smol is missing", "<path> is missing"),
        ("see <https://hub.example/x>", "see <<url>>"),
        ("mount.nfs:a.b/c/d/e failed", "mount.nfs:<path> failed"),
        ("no .gpu-3.rack1.internal here", "no <address> here"),
        ("1.node17:6379 is gone", "<address> is gone"),
        ("cannot open '/my models/smol", "cannot open <path>"),
        # These have to stay readable.
        ("org/name is not a repository", "org/name is not a repository"),
        ("needs 24.5 GiB of 22.1 GiB, 3 tokens/s", "needs 24.5 GiB of 22.1 GiB, 3 tokens/s"),
        ("rank 64 > max_lora_rank: 16", "rank 64 > max_lora_rank: 16"),
        ("and/or at 10:30:22", "and/or at 10:30:22"),
        ("see .local and 1.5 at 2:30000", "see .local and 1.5 at 2:30000"),
        ("line one\n  line two\n", "line one line two"),
    ],
)
def test_an_engines_message_is_redacted(message: str, shown: str) -> None:
    assert redact(message) == shown


def test_of_a_traceback_only_the_error_is_shown() -> None:
    message = 'Traceback (most recent call last):\n  File "/a/b.py", line 1, in f\n    g()\nValueError: bad value\n'
    assert redact(message) == "ValueError: bad value"


def test_an_engines_message_is_cut_at_300_characters() -> None:
    assert len(redact("word " * 1000)) == 300


@pytest.mark.parametrize(
    "part",
    ["a.", "-.", "a-", "hf-", ".@", "a+", "f:", "::", "1.", "a/", "//", "'/", "~/", "[:", "bearer ", "C:\\", "\n"],
)
@pytest.mark.parametrize("before", ["", "argument --dtype: invalid choice: '", "[", "'/", "bearer ", "x://"])
def test_no_message_takes_long_to_redact(before: str, part: str) -> None:
    """A publisher chooses parts of it, for example in a bad engine argument."""
    started = time.thread_time()
    redact(before + part * (500_000 // len(part)))
    assert time.thread_time() - started < 0.1


def test_what_a_cut_leaves_of_a_secret_is_not_shown() -> None:
    for word in ("hf_abcdefghijklmnopqrst", "gpu-3.rack1.internal", "10.11.12.13", "/srv/models"):
        for length in range(len(word)):
            shown = redact(f"/{'x' * (1994 - length)} in {word} and so on")
            assert shown in ("<path> in…", f"<path> in {redact(word)}…")


def test_a_long_word_alone_is_left_out() -> None:
    assert redact("choice: " + "a" * 5000) == "choice:…"
    assert redact("a" * 5000) == "…"


def test_a_message_is_redacted_once() -> None:
    message = "a message of its own"
    redact(message)
    before = redact.cache_info()
    redact(message)
    assert redact.cache_info().hits == before.hits + 1
    assert redact.cache_info().maxsize is not None
