"""Archives that others made: what leaves the folder, is no plain file, or is too large is refused, in tar and zip."""

import io
import stat
import tarfile
import zipfile
import zlib

import pytest

from bkdsnn.core.archives import half_of_the_disk, unpack
from bkdsnn.core.errors import UserError

LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


def tar(path, members, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return path


def packed(path, members, mode=0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def taken(source, folder, total=1000, room=1000):
    """Unpack and return what then lies in `folder`."""
    unpack(source, folder, "a sound archive", total, lambda name: 0 if name.endswith(".skip") else room)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(source, folder, **limits):
    """Return why an archive is refused, after a check that nothing was written beside the folder."""
    beside = sorted(folder.parent.iterdir())
    folder.mkdir()
    with pytest.raises(UserError) as caught:
        taken(source, folder, **limits)
    assert sorted(folder.parent.iterdir()) == sorted([*beside, folder])
    message = str(caught.value)
    assert message.startswith(f"{source}: cannot be unpacked (") and message.endswith("; expected a sound archive")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("make", [tar, packed])
def test_files_that_have_room_are_written_and_others_passed_over(make, tmp_path):
    source = make(tmp_path / "archive", {"a/b.txt": b"b", "./c": b"", "d.skip": b"x" * 5000})
    assert taken(source, tmp_path / "folder") == {"a/b.txt": b"b", "c": b""}


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path):
    inner = packed(tmp_path / "inner", {"f": b"sound"}).read_bytes()
    with tarfile.open(tmp_path / "archive", "w") as archive:
        archive.add(tmp_path / "inner", "last.npz")
    assert taken(tmp_path / "archive", tmp_path / "folder") == {"last.npz": inner}


def test_an_empty_zip_has_no_files(tmp_path):
    assert taken(packed(tmp_path / "archive", {}), tmp_path / "folder") == {}


@pytest.mark.parametrize("make", [tar, packed])
@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/tmp/bkdsnn-escaped", "../escaped.skip"])
def test_a_name_that_leads_out_is_refused(make, name, tmp_path):
    source = make(tmp_path / "archive", {"good": b"good", name: b"evil"})
    assert f"'{name}' is not a plain file below the folder" in refusal(source, tmp_path / "folder")


@pytest.mark.parametrize("kind", LINKS)
def test_links_and_devices_of_tar_are_refused(kind, tmp_path):
    source = tar(tmp_path / "archive", {"link": b""}, kind)
    assert "'link' is not a plain file" in refusal(source, tmp_path / "folder")


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_of_zip_are_refused(mode, tmp_path):
    source = packed(tmp_path / "archive", {"link": b"/etc/passwd"}, mode)
    assert "'link' is not a plain file" in refusal(source, tmp_path / "folder")


@pytest.mark.parametrize("make", [tar, packed])
def test_a_file_larger_than_its_room_is_refused(make, tmp_path):
    source = make(tmp_path / "archive", {"bomb": bytes(10_000_000)})
    assert source.stat().st_size < 20_000
    assert "'bomb' has more than the 1,000 bytes" in refusal(source, tmp_path / "folder", total=10**9)
    assert (tmp_path / "folder" / "bomb").stat().st_size <= 1000


@pytest.mark.parametrize("make", [tar, packed])
@pytest.mark.parametrize("content", [bytes(400), b""])
def test_many_files_are_refused_when_all_have_too_much(make, content, tmp_path):
    source = make(tmp_path / "archive", {f"f{index}": content for index in range(50)})
    assert "more" in refusal(source, tmp_path / "folder", total=5000)
    assert len(list((tmp_path / "folder").iterdir())) <= 11


@pytest.mark.parametrize("make", [tar, packed])
def test_a_damaged_archive_is_refused(make, tmp_path):
    whole = make(tmp_path / "archive", {f"f{index}": bytes(range(200)) for index in range(4)}).read_bytes()
    (tmp_path / "archive").write_bytes(whole[: len(whole) // 2])
    refusal(tmp_path / "archive", tmp_path / "folder")


def test_a_zip_with_a_wrong_checksum_is_refused(tmp_path):
    source = packed(tmp_path / "archive", {"f": b"sound"})
    checksum = zlib.crc32(b"sound").to_bytes(4, "little")
    source.write_bytes(source.read_bytes().replace(checksum, b"0000"))
    assert "Bad CRC-32" in refusal(source, tmp_path / "folder")


def test_half_of_the_disk_is_less_than_all_of_it(tmp_path):
    assert half_of_the_disk(tmp_path) > 0
