"""The playground's Docker Engines: real ones, one inside each node, and the one image that they begin with."""

from __future__ import annotations

import http.client
import io
import socket
import tarfile
from pathlib import Path
from urllib.parse import quote

from drover.coordinator.cli.errors import Failed
from drover.coordinator.cli.playground import etcd, tools

SOCKET = Path("/run/docker.sock")
IMAGE = "busybox:latest"
"""What every engine begins with, made of the machine's own static busybox: a playground has no way to a registry."""

_APPLETS = "sh cat cp date dd df echo env false head id ls mkdir mv nc ps rm sleep stat sync tail test touch true wc"


def check() -> None:
    """Raises NotPossible with the package to install."""
    for tool in ("dockerd", "docker", "containerd", "runc", "iptables", "busybox"):
        tools.find(tool)


def command(home: Path) -> list[str]:
    """home: the node's, in which the engine keeps images and containers. Raises NotPossible."""
    return [
        *(tools.find("dockerd"), "--data-root", str(home / "docker"), "--exec-root", "/run/docker"),
        *("-p", "/run/docker.pid", "-H", f"unix://{SOCKET}"),
    ]


def ready(node: str, first: int, log: Path, deadline: float) -> None:
    """Until the engine of a node answers and has IMAGE. first: PID of the node's first process. deadline: of
    time.monotonic(). Raises Failed."""
    path = Path(f"/proc/{first}/root{SOCKET}")
    etcd.wait_until(
        lambda: _ask(path, "GET", "/_ping") == 200,
        deadline,
        lambda: f"the engine of {node} does not answer; its log: {log}",
    )
    if _ask(path, "GET", f"/images/{quote(IMAGE)}/json") != 200:
        name, _, tag = IMAGE.partition(":")
        answer = _ask(path, "POST", f"/images/create?fromSrc=-&repo={name}&tag={tag}", _image())
        if answer != 200:
            raise Failed(f"the engine of {node} did not take an image: status {answer}", outcome="")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ask(path: Path, method: str, url: str, body: bytes = b"") -> int:
    """The status of the answer; 0: there is none."""
    connection = _Connection(path)
    try:
        connection.request(method, url, body)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except OSError:
        return 0
    finally:
        connection.close()


def _image() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(directory)
        program = tar.gettarinfo(tools.find("busybox"), "bin/busybox")
        with open(tools.find("busybox"), "rb") as file:
            tar.addfile(program, file)
        for applet in _APPLETS.split():
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        users = b"root:x:0:0:root:/:/bin/sh\n"
        passwd = tarfile.TarInfo("etc/passwd")
        passwd.size = len(users)
        tar.addfile(passwd, io.BytesIO(users))
    return buffer.getvalue()
