"""One pass over all recordings of a dataset: their sizes, checksums, labels and clips, with progress."""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from bkdsnn.config import Dataset
from bkdsnn.core import progress
from bkdsnn.core.errors import UserError
from bkdsnn.data.events import layouts
from bkdsnn.data.events.recording import unreadable
from bkdsnn.data.manifest import FileRecord, Found, digest_of, file_record


def survey(dataset: Dataset, folder: Path) -> Found:
    """Read every recording below `folder` once; UserError as `layouts.items`, or if a file cannot be read."""
    inventory = Inventory(dataset, folder, "checked")
    for split in inventory.splits:
        for _ in inventory.visit(split):
            pass
    return inventory.found()


class Inventory:
    """Measures recordings while they are visited; `splits` are the items of "train" and "test"."""

    def __init__(self, dataset: Dataset, folder: Path, doing: str) -> None:
        train, test = layouts.items(dataset, folder)
        self.splits = {"train": train, "test": test}
        self._name, self._folder, self._doing = dataset.name, folder, doing
        self._bytes: Counter[str] = Counter()
        self._lines: defaultdict[str, list[str]] = defaultdict(list)
        self._done, self._total = 0, sum(map(len, self.splits.values()))
        self._began = self._logged = time.monotonic()

    def visit(self, split: str) -> Iterator[tuple[Path, list[layouts.Item]]]:
        """Yield each file of a split and its clips, in order, once measured; UserError if it cannot be read."""
        for relative, group in itertools.groupby(self.splits[split], key=lambda item: item.path):
            path, clips = self._folder / relative, list(group)
            try:
                self._note(split, clips, file_record(path))
            except OSError as error:
                raise unreadable(path, error) from error
            yield path, clips
            self._count(len(clips))

    def found(self) -> Found:
        """Return counts, digest and one record per folder visited, whose checksum is that of its recordings' lines.

        A line holds path, size, SHA-256, split, label, and start and end of the clip. The digest is of the records.
        """
        files = [
            FileRecord(path=place, bytes=self._bytes[place], sha256=digest_of(lines))
            for place, lines in self._lines.items()
        ]
        digest = digest_of(f"{file.path}\t{file.bytes}\t{file.sha256}" for file in files)
        return Found(len(self.splits["train"]), len(self.splits["test"]), digest, files)

    def check(self, expected: list[FileRecord]) -> None:
        """Compare the visited folders with the records of a manifest; UserError names the first that differs."""
        for found, known in itertools.zip_longest(self.found().files, expected):
            if found != known:
                place = self._folder / (known or found).path
                raise UserError(
                    f"{place}: recordings, labels or their split have changed since the data of '{self._name}' were "
                    "prepared; restore them, or delete the data manifest and run the workflow again"
                )

    def _note(self, split: str, clips: list[layouts.Item], file: FileRecord) -> None:
        place = str(Path(clips[0].path).parent)
        self._bytes[place] += file.bytes
        for path, label, start, end in clips:
            self._lines[place].append(f"{path}\t{file.bytes}\t{file.sha256}\t{split}\t{label}\t{start}\t{end}")

    def _count(self, clips: int) -> None:
        """Log how many recordings are done, at most once per `progress.EVERY` seconds."""
        self._done += clips
        now = time.monotonic()
        if now - self._logged >= progress.EVERY:
            self._logged = now
            left = progress.duration((now - self._began) / self._done * (self._total - self._done))
            progress.log.info(
                "%s: %s/%s recordings %s, %s left", self._name, f"{self._done:,}", f"{self._total:,}", self._doing, left
            )
