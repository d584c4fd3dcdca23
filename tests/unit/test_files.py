"""Writing files: old content or new, never half; what cannot be written or read is told in one message."""

import errno
import hashlib
import json
import os
import resource

import pytest

from bkdsnn.core import files
from bkdsnn.core.errors import UserError


@pytest.fixture
def old(tmp_path):
    """A file that has content already."""
    path = tmp_path / "folder" / "file.json"
    path.parent.mkdir()
    path.write_text("old")
    return path


def is_as_before(path):
    """Whether a file has its old content and stands alone in its folder."""
    return path.read_text() == "old" and [other.name for other in path.parent.iterdir()] == [path.name]


def test_new_content_replaces_the_old_and_leaves_no_other_file(old):
    files.write_text(old, "new")
    assert old.read_text() == "new" and list(old.parent.iterdir()) == [old]


def test_missing_folders_are_made(tmp_path):
    files.write_json(tmp_path / "a" / "b" / "c.json", {"key": [1, None]})
    assert json.loads((tmp_path / "a" / "b" / "c.json").read_text()) == {"key": [1, None]}


def test_a_reader_sees_the_old_content_until_the_new_is_complete(old):
    with files.replacing(old) as temporary:
        temporary.write_text("ne")
        assert old.read_text() == "old"
        temporary.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"


def test_two_writers_at_once_do_not_mix(old):
    with files.replacing(old) as first, files.replacing(old) as second:
        first.write_text("first")
        second.write_text("second, and longer")
    assert old.read_text() == "first" and list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, UserError])
def test_an_error_while_writing_keeps_the_old_content_and_is_passed_on(old, error):
    with pytest.raises(error), files.replacing(old) as temporary:
        temporary.write_text("half")
        raise error
    assert is_as_before(old)


def test_content_that_is_no_json_keeps_the_old_file(old):
    with pytest.raises(TypeError):
        files.write_json(old, {"key": object()})
    assert is_as_before(old)


@pytest.fixture
def little_space():
    """No file of this process may grow beyond 4 KiB: a write fails halfway, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_fails_halfway_keeps_the_old_content(old, little_space):
    with pytest.raises(UserError) as caught:
        files.write_text(old, "new" * 4096)
    assert str(caught.value) == (
        f"cannot write {old}: {os.strerror(errno.EFBIG)}; free space or fix the permissions, then rerun"
    )
    assert is_as_before(old)


@pytest.fixture
def forbidden(old):
    """The old file, in a folder where this process may not write; root, who may, becomes nobody meanwhile."""
    root = os.geteuid() == 0
    old.parent.chmod(0o500)
    if root:
        os.seteuid(65534)
    yield old
    if root:
        os.seteuid(0)
    old.parent.chmod(0o700)


def test_a_folder_without_permission_is_named(forbidden):
    with pytest.raises(UserError, match=rf"cannot write {forbidden}: Permission denied; .* fix the permissions"):
        files.write_text(forbidden, "new")


def test_a_place_where_no_file_can_be_is_named(old):
    for place in (old / "below", old / "far" / "below", old.parent):
        with pytest.raises(
            UserError, match=rf"^cannot write {place}: (.* is no folder|Not a directory|Is a directory);"
        ):
            files.write_text(place, "new")
    assert is_as_before(old)


def test_checksum_of_a_file(tmp_path):
    content = bytes(range(256)) * 4096
    (tmp_path / "file").write_bytes(content)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
