from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.ingress.bodies.form_body import parse_form
from dataplane.openai import errors as openai_errors
from tests.unit.dataplane.ingress.bodies.sent import sent


def form(*parts: tuple[str, bytes], boundary: str = "XX") -> bytes:
    text = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + value + b"\r\n"
        for disposition, value in parts
    )
    return text + f"--{boundary}--\r\n".encode()


MULTIPART = b"multipart/form-data; boundary=XX"
AUDIO = ('name="file"; filename="a.wav"', bytes(range(256)) * 50 + b"\r\n--X\r\nmodel\r\n")


def test_the_model_of_a_form_is_found_and_replaced_in_place() -> None:
    raw = form(AUDIO, ('name="model"', b"whisper:pirate"), ('name="language"', b"en"))
    body = parse_form(raw, MULTIPART)
    assert body.model == "whisper:pirate"
    assert sent(raw, body.asking_for("whisper:pirate@1")) == raw.replace(b"whisper:pirate", b"whisper:pirate@1")


@pytest.mark.parametrize(
    ("raw", "content_type", "error"),
    [
        (form(AUDIO), MULTIPART, openai_errors.ModelMissing),
        (form(('name="model"', b"a"), ('name="model"', b"b")), MULTIPART, openai_errors.InvalidForm),
        (form(('name="model"; filename="m"', b"a")), MULTIPART, openai_errors.InvalidForm),
        (form(('name="model"', b"a"))[:-6], MULTIPART, openai_errors.InvalidForm),
        (form(('name="model"', b"a"), boundary="YY"), MULTIPART, openai_errors.InvalidForm),
        (form(('name="model"', b"\xff")), MULTIPART, openai_errors.InvalidForm),
        (form(*[('name="x"', b"a")] * 1001), MULTIPART, openai_errors.InvalidForm),
        (form(*[('name="x"' + ";" * 3000, b"a")] * 100), MULTIPART, openai_errors.InvalidForm),
        (form(('name="model"', b"a")), MULTIPART + b"; charset=utf-7", openai_errors.InvalidForm),
        (form(('name="model"', b"a")), b"multipart/form-data", openai_errors.InvalidForm),
        (form(('name="model"', b"a"), boundary="X" * 257), MULTIPART + b"X" * 255, openai_errors.InvalidForm),
        (b'{"model":"a"}', b"application/json", openai_errors.InvalidForm),
        (b"model=a", b"application/x-www-form-urlencoded", openai_errors.InvalidForm),
        (b"", MULTIPART, openai_errors.InvalidForm),
    ],
)
def test_an_invalid_form_is_refused(raw: bytes, content_type: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_form(raw, content_type)


@given(
    st.binary(max_size=8),
    st.sampled_from(
        [
            (b"%", b'form-data; name="model"'),
            (b"multipart/form-data; %; boundary=XX", b'form-data; name="model"'),
            (MULTIPART + b"%", b'form-data; name="model"'),
            (MULTIPART, b'form-data; name="model%"'),
            (MULTIPART, b"%"),
        ]
    ),
)
def test_a_form_is_refused_as_a_whole_or_can_be_used(data: bytes, template: tuple[bytes, bytes]) -> None:
    content_type, disposition = (part.replace(b"%", data) for part in template)
    raw = b"--XX\r\nContent-Disposition: " + disposition + b"\r\n\r\nm\r\n--XX--\r\n"
    try:
        body = parse_form(raw, content_type)
    except openai_errors.IngressError:
        return
    assert parse_form(sent(raw, body.asking_for("other@1")), content_type).model == "other@1"


def test_part_headers_of_a_form_take_little_time() -> None:
    """Splitting a header at its semicolons costs most."""
    parts = [('name="x"' + ";" * 4000, b"a")] * 900
    started = time.thread_time()
    with pytest.raises(openai_errors.InvalidForm, match=r"headers of its parts .* 131072 bytes"):
        parse_form(form(*parts), MULTIPART)
    assert time.thread_time() - started < 0.3
