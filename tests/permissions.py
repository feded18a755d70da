"""Permissions of files count for root too, who runs the tests in containers."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_VERSION = 0x20080522
_MAY_READ_ALL = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of Linux."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Powers(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@contextmanager
def permissions_count() -> Iterator[None]:
    """Take the power to read every file from this thread for a while, if it has it."""
    if os.geteuid() != 0:
        yield
        return
    header, powers = _Header(_VERSION, 0), (_Powers * 2)()
    system = ctypes.CDLL(None)
    if not hasattr(system, "capset") or system.capget(ctypes.byref(header), powers):
        pytest.skip("root may read every file here")
    before = powers[0].effective
    powers[0].effective = before & ~_MAY_READ_ALL
    assert system.capset(ctypes.byref(header), powers) == 0
    try:
        yield
    finally:
        powers[0].effective = before
        assert system.capset(ctypes.byref(header), powers) == 0
