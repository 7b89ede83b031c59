"""Whose a certificate is, and which addresses others can reach."""

from __future__ import annotations

import pytest

from drover.agent.tls import Peer, Role, Stranger, peer
from drover.coordinator.addresses import host_port, is_loopback, joined, reachable


def certificate(*, uri: tuple[str, ...] = (), cn: tuple[str, ...] = (), ou: tuple[str, ...] = ()) -> dict[str, object]:
    """As `ssl` shows it."""
    named = [(("commonName", name),) for name in cn] + [(("organizationalUnitName", unit),) for unit in ou]
    return {"subject": tuple(named), "subjectAltName": (("DNS", "node-z"), *(("URI", one) for one in uri))}


@pytest.mark.parametrize(
    ("shown", "who"),
    [
        (certificate(uri=("drover://farm/node/node-a",)), Peer("node-a", Role.NODE)),
        (certificate(uri=("drover://farm/operator/ann%40x",), cn=("other",)), Peer("ann@x", Role.OPERATOR)),
        (certificate(uri=("spiffe://x/y", "drover://farm/node/node-a")), Peer("node-a", Role.NODE)),
        (certificate(cn=("node-a",), ou=("Storage", "node")), Peer("node-a", Role.NODE)),
        (certificate(cn=("ann",), ou=("operator",)), Peer("ann", Role.OPERATOR)),
    ],
)
def test_a_certificate_says_whose_it_is(shown: dict[str, object], who: Peer) -> None:
    assert peer(shown) == who


@pytest.mark.parametrize(
    "shown",
    [
        certificate(),
        certificate(cn=("node-a",)),
        certificate(cn=("node-a", "node-b"), ou=("node",)),
        certificate(cn=("node-a",), ou=("node", "operator")),
        certificate(uri=("drover://farm/node/a", "drover://farm/node/b"), cn=("a",), ou=("node",)),
        certificate(uri=("drover://farm/king/a",)),
        certificate(uri=("drover://farm/node/a/b",)),
        certificate(uri=("x-drover://farm/node/a",)),
    ],
)
def test_a_certificate_that_leaves_room_for_doubt_is_nobodys(shown: dict[str, object]) -> None:
    with pytest.raises(Stranger, match="does not say whose it is"):
        peer(shown)


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:7470", "127.0.0.1", 7470, True),
        ("127.8.8.8:0", "127.8.8.8", 0, True),
        ("[::1]:7470", "::1", 7470, True),
        ("localhost:1", "localhost", 1, True),
        ("[::]:7470", "::", 7470, False),
        ("0.0.0.0:7470", "0.0.0.0", 7470, False),
        ("[fd00::1]:7470", "fd00::1", 7470, False),
        ("node-a.example:7470", "node-a.example", 7470, False),
    ],
)
def test_an_address_is_read_whichever_way_it_is_written(text: str, host: str, port: int, loopback: bool) -> None:
    assert host_port(text) == (host, port)
    assert joined(host, port) == text
    assert is_loopback(text) is loopback


@pytest.mark.parametrize(
    "text", ["", "::1:7470", "[::1]", "a", ":1", "a:b", "a:99999", "a@b:1", "a/b:1", "a b:1", "a\n:1", "ä:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        host_port(text)


@pytest.mark.parametrize(
    ("listen", "here"),
    [
        ("0.0.0.0:7471", "127.0.0.1:7471"),
        ("[::]:7471", "[::1]:7471"),
        ("[fd00::1]:7471", "[fd00::1]:7471"),
        ("10.0.0.1:7471", "10.0.0.1:7471"),
    ],
)
def test_what_listens_on_every_address_is_reached_over_loopback(listen: str, here: str) -> None:
    assert reachable(listen) == here
