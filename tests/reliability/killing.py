"""Kills the process it runs in at a chosen step, before a file changes; what tests of crashes share.

A killed process leaves what its system calls did before, and nothing else. So to strike once before each call that
changes a file or a folder, whether Python made it or SQLite did, is to leave every state there can be.
"""

import _sqlite3
import ctypes
import os
import signal
from collections.abc import Callable
from typing import Any

CALLS = ("open", "fsync", "replace", "unlink", "chmod", "mkdir")
"""Of `os`; those of pathlib end here, too. What is written through `open()` does not: who tests that adds steps."""

_INT, _LONG, _TEXT, _POINTER = ctypes.c_int, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p

SYSTEM_CALLS = {
    "open": (_INT, _TEXT, _INT, _INT),
    "write": (_LONG, _INT, _POINTER, ctypes.c_size_t),
    "pwrite": (_LONG, _INT, _POINTER, ctypes.c_size_t, _LONG),
    "pwrite64": (_LONG, _INT, _POINTER, ctypes.c_size_t, _LONG),
    "ftruncate": (_INT, _INT, _LONG),
    "fchmod": (_INT, _INT, _INT),
    "unlink": (_INT, _TEXT),
}
"""Those through which SQLite changes files, as result and arguments: https://www.sqlite.org/vfs.html."""


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`, version 3."""

    _fields_ = (
        *((name, _INT) for name in ("iVersion", "szOsFile", "mxPathname")),
        *((name, _POINTER) for name in ("pNext", "zName", "pAppData")),
        *((name, _POINTER) for name in ("xOpen", "xDelete", "xAccess", "xFullPathname")),
        *((name, _POINTER) for name in ("xDlOpen", "xDlError", "xDlSym", "xDlClose")),
        *((name, _POINTER) for name in ("xRandomness", "xSleep", "xCurrentTime", "xGetLastError")),
        *((name, _POINTER) for name in ("xCurrentTimeInt64", "xSetSystemCall", "xGetSystemCall", "xNextSystemCall")),
    )


try:
    _find_vfs = ctypes.CDLL(getattr(_sqlite3, "__file__", None)).sqlite3_vfs_find
    _find_vfs.restype = ctypes.POINTER(_Vfs)
except AttributeError:  # a Python with an SQLite in it that it keeps for itself
    _find_vfs = None

REACHES_SQLITE = _find_vfs is not None


class Killer:
    """Counts the steps that change files, and kills this process at one of them."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._kept: list[Any] = []
        self.armed = False

    def step(self, *_: object) -> None:
        if self.armed:
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Strike before a call of Python's, or of SQLite's, that changes a file."""
        for name in CALLS:
            setattr(os, name, self.watched(getattr(os, name)))
        self._install_in_sqlite()

    def watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            self.step()
            return call(*arguments, **options)

        return watched

    def _install_in_sqlite(self) -> None:
        vfs = _find_vfs(None)
        get = ctypes.CFUNCTYPE(_POINTER, _POINTER, _TEXT)(vfs.contents.xGetSystemCall)
        put = ctypes.CFUNCTYPE(_INT, _POINTER, _TEXT, _POINTER)(vfs.contents.xSetSystemCall)
        for name, signature in SYSTEM_CALLS.items():
            kind = ctypes.CFUNCTYPE(*signature, use_errno=True)
            if (there := get(vfs, name.encode())) is None:
                continue
            original = kind(there)
            ours = kind(self._opened_to_make(original) if name == "open" else self.watched(original))
            assert put(vfs, name.encode(), ctypes.cast(ours, _POINTER)) == 0
            self._kept += [original, ours]

    def _opened_to_make(self, call: Callable[..., int]) -> Callable[..., int]:
        def opened(path: bytes, flags: int, mode: int) -> int:
            if flags & os.O_CREAT and not os.path.lexists(path):
                self.step()
            return call(path, flags, mode)

        return opened
