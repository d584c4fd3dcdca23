"""Read the pickles of the Python version of CIFAR without importing or calling anything that they name.

Unpickling can run arbitrary code. CIFAR files need only dictionaries, lists, text, numbers and one NumPy array of
bytes, so every other global is refused, and even NumPy's own names are replaced by small classes of this module.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from bkdsnn.core.errors import UserError


def unpickle(path: Path) -> dict[str, Any]:
    """Return the dictionary pickled in `path`: keys as text, text of Python 2 as bytes, arrays as `ByteArray`.

    Raises UserError if the file is missing, damaged, not a dictionary, or names a global that no CIFAR file needs.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; {_ADVICE}")
    try:
        with path.open("rb") as stream:
            content = _Reader(stream, encoding="bytes").load()
    except _Refused as refused:
        message = f"{path}: refused, because it names '{refused}', which no CIFAR file needs and which may run code"
        raise UserError(f"{message}; {_ADVICE}") from refused
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path}: damaged or not a CIFAR pickle ({error}); {_ADVICE}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: found a pickled {type(content).__name__}, expected a dictionary; {_ADVICE}")
    return {text(key): value for key, value in content.items()}


def text(value: Any) -> str:
    """Return `value` as text, also if Python 2 wrote it."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


class ByteArray:
    """Replaces numpy.ndarray, for uint8 only."""

    value = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        """Build the array from version, shape, type, order and raw bytes; inconsistent values raise an exception."""
        _, shape, kind, fortran, raw = state
        if kind.code != "u1":
            raise ValueError(f"found an array of type {kind.code}, expected u1")
        self.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _DType:
    """Replaces numpy.dtype, and keeps only the type code."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code = text(code)

    def __setstate__(self, state: Any) -> None:
        """Ignore the state, such as the byte order, because it has no meaning for single bytes."""


def _reconstruct(*_: Any) -> ByteArray:
    """Replace NumPy's function of that name."""
    return ByteArray()


def _encode(characters: str, *_: Any) -> bytes:
    """Replace _codecs.encode, which Python 3 uses to write bytes in pickle protocol 2."""
    return characters.encode("latin1")


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # written by NumPy 2
    ("numpy", "ndarray"): ByteArray,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}
_ADVICE = "take the file from the official page of CIFAR"


class _Refused(Exception):
    """A pickle names a global that is not admitted."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the substitute of an admitted global; never import."""
        if (module, name) not in _ADMITTED:
            raise _Refused(f"{module}.{name}")
        return _ADMITTED[module, name]
