"""Changes a few bytes of a body, and copies no large one for it. Pure."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

WHOLE_BYTES_MAX = 64 * 1024
"""A changed body of at most so many bytes is made anew: a copy costs less than writing parts."""

Content = bytes | Sequence[bytes | memoryview]
"""A body to be sent, whole or in parts that follow each other."""


class Edit(NamedTuple):
    """Puts `new` in the place of the bytes from `start` to before `end`."""

    start: int
    end: int
    new: bytes


def splice(raw: bytes, edits: Sequence[Edit]) -> Content:
    """The body with edits that do not overlap, in any order.

    The parts of a large one are views of `raw`, which has to stay alive.
    """
    if not edits:
        return raw
    kept = raw if len(raw) <= WHOLE_BYTES_MAX else memoryview(raw)
    parts: list[bytes | memoryview] = []
    end = 0
    for edit in sorted(edits):
        parts += (kept[end : edit.start], edit.new)
        end = edit.end
    parts.append(kept[end:])
    return b"".join(parts) if kept is raw else parts


class _PyBuffer(ctypes.Structure):
    """`Py_buffer`, which is a part of CPython's stable ABI since 3.11."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_release_buffer.restype = None


def offset_in(raw: bytes, view: object) -> int:
    """Where a view of `raw` begins in it.

    msgspec's `Raw` is documented to be a view of the message, and has no attribute that says where.
    A search for its bytes would find others that are equal, and costs more than decoding.

    Raises:
        ValueError: It is no view of `raw`.
    """
    held = _PyBuffer()
    address = ctypes.byref(held)
    _get_buffer(view, address, 0)
    start: int = held.buf or 0
    _release_buffer(address)
    _get_buffer(raw, address, 0)
    offset = start - (held.buf or 0)
    _release_buffer(address)
    if not 0 <= offset <= len(raw):
        raise ValueError("not a view of these bytes")
    return offset
