"""NumPy's own files with one structured array of fields t, x, y, p (DVS-Lip; Tan et al., CVPR 2022), never pickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bkdsnn.core import files
from bkdsnn.data.events.recording import Recording, check_fits, damaged, unreadable

KIND = np.dtype([("t", "<i4"), ("x", "i1"), ("y", "i1"), ("p", "i1")])  # of the published files


def read(path: Path) -> Recording:
    """Read all events.

    Raises UserError if the file cannot be read, is truncated, is a pickle or holds another array, or if a value is
    negative, a polarity is neither 0 nor 1, or an address has more than 16 bits.
    """
    stored = _load(path)
    columns = Recording(*(stored[field] for field in Recording._fields))
    if problem := columns.excess(t=2**63, x=2**16, y=2**16):
        raise damaged(path, problem)
    return Recording.of(*columns)


def write(path: Path, recording: Recording) -> None:
    """Write atomically as published; UserError if an event is outside 128 x 128 pixels or 2^31 microseconds."""
    check_fits(path, recording, t=2**31, x=128, y=128)
    stored = np.empty(len(recording.t), KIND)
    for field, column in recording._asdict().items():
        stored[field] = column
    with files.replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, stored, allow_pickle=False)


def _load(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as stream:
            stored = np.lib.format.read_array(stream, allow_pickle=False)
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # a damaged header may raise anything
        raise damaged(path, "truncated, or no array of numbers in NumPy's format (pickles are refused)") from error
    if stored.ndim != 1 or not _whole_numbers(stored.dtype):
        found = f"{stored.dtype} of shape {stored.shape}"
        raise damaged(path, f"found {found}, expected one row of events of whole numbers t, x, y, p")
    return stored


def _whole_numbers(kind: np.dtype) -> bool:
    kinds = {name: field[0].kind for name, field in (kind.fields or {}).items()}
    return all(kinds.get(name) in ("i", "u", "b") for name in Recording._fields)
