"""Weights from a server that errs: what is cut, changed or absent is refused before it is read, in one line."""

import hashlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
import torchvision

from bkdsnn.config import Pretrained
from bkdsnn.core.errors import UserError
from bkdsnn.data.published import fetch, stored
from bkdsnn.runs import checkpoint

NAME = "torchvision/ResNet18_Weights.IMAGENET1K_V1"


def state_dict():
    stream = io.BytesIO()
    torch.save({"fc.weight": torch.arange(6.0)}, stream)
    return stream.getvalue()


FILE = state_dict()
DIGEST = hashlib.sha256(FILE).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `FILE`, and by other names errors."""

    def do_GET(self):
        self.server.asked.append(self.path)
        kind = self.path.strip("/").removesuffix(".pth")
        if kind == "absent":
            self.send_error(404)
        elif kind == "garbage":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
        else:
            content = {"cut": FILE[: len(FILE) // 2], "changed": FILE[:-1] + b"x"}.get(kind, FILE)
            self.send_response(200)
            self.send_header("Content-Length", str(len(FILE)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, as which torchvision's addresses are given; `server.offer` chooses what it does."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.asked = []
        thread = threading.Thread(target=served.serve_forever)
        thread.start()

        def offer(kind):
            address = f"http://127.0.0.1:{served.server_port}/{kind}.pth"
            monkeypatch.setattr(torchvision.models, "get_weight", lambda _: SimpleNamespace(url=address))

        served.offer = offer
        yield served
        served.shutdown()
        thread.join()


def test_a_file_with_its_checksum_is_stored(server, tmp_path):
    server.offer("right")
    wanted = Pretrained(name=NAME, sha256=DIGEST)
    target = stored(tmp_path, wanted)
    fetch(wanted, target, None)
    tensors, header = checkpoint.read_tensors(target)
    assert torch.equal(tensors["fc.weight"], torch.arange(6.0)) and header["sha256"] == DIGEST
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", r"cut.pth: SHA-256 begins \w{8}, expected"),
        ("changed", r"changed.pth: SHA-256 begins \w{8}, expected"),
        (
            "absent",
            r"cannot download http://\S+/absent.pth: HTTP Error 404: Not Found; download it yourself",
        ),
        ("garbage", r"cannot download http://\S+/garbage.pth: BadStatusLine\(.*\); download it yourself"),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_leaves_nothing(server, tmp_path, kind, message):
    server.offer(kind)
    wanted = Pretrained(name=NAME, sha256=DIGEST)
    with pytest.raises(UserError, match=message) as caught:
        fetch(wanted, stored(tmp_path, wanted), None)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [] and server.asked == [f"/{kind}.pth"]


def test_an_older_file_stays_when_a_download_fails(server, tmp_path):
    server.offer("cut")
    wanted = Pretrained(name=NAME, sha256=DIGEST)
    stored(tmp_path, wanted).write_bytes(b"older")
    with pytest.raises(UserError, match="SHA-256 begins"):
        fetch(wanted, stored(tmp_path, wanted), None)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_what_has_no_known_checksum_is_not_even_asked_for(server, tmp_path):
    server.offer("right")
    wanted = Pretrained(name=NAME)
    with pytest.raises(UserError, match=r"right.pth: its checksum is not known; add it as 'sha256' where"):
        fetch(wanted, stored(tmp_path, wanted), None)
    assert list(tmp_path.iterdir()) == [] and server.asked == []
