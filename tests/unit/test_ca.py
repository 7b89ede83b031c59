"""`drover ca`: a small authority in a directory."""

from __future__ import annotations

import json
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drover.coordinator.certificates import Certificate, Unusable
from drover.coordinator.cli.errors import ExitCode
from drover.coordinator.cli.main import run
from drover.coordinator.identity import Peer, Role


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    assert run(["ca", "init", str(tmp_path / "ca"), "--cluster", "farm"]) == ExitCode.DONE
    return tmp_path / "ca"


def issue(ca: Path, *words: str) -> int:
    return run(["ca", "issue", *words, "--dir", str(ca)])


def openssl(*words: str | Path) -> str:
    return subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=20, check=True).stdout


def test_every_file_is_its_owners_alone(ca: Path) -> None:
    assert issue(ca, "node", "node-a") == ExitCode.DONE
    assert run(["ca", "renew", "node-a", "--new-key", "--dir", str(ca)]) == ExitCode.DONE
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ca.iterdir()}
    assert files == dict.fromkeys(("ca.crt", "ca.key", "node-a.crt", "node-a.key"), 0o600)
    assert stat.S_IMODE(ca.stat().st_mode) == 0o700


def test_a_nodes_certificate_says_its_name_and_where_it_is_and_openssl_agrees(ca: Path) -> None:
    assert issue(ca, "node", "node-a", "--address", "10.0.0.11", "--address", "[fd00::11]") == ExitCode.DONE
    said = openssl("x509", "-in", ca / "node-a.crt", "-noout", "-text")
    assert "OU = node, CN = node-a" in said
    for word in ("DNS:node-a", "IP Address:10.0.0.11", "IP Address:FD00:0:0:0:0:0:0:11"):
        assert word in said
    assert "URI:drover://farm/node/node-a" in said
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in said
    assert "prime256v1" in said
    assert "OK" in openssl("verify", "-CAfile", ca / "ca.crt", ca / "node-a.crt")
    it = Certificate.read(ca / "node-a.crt")
    assert it.peer == Peer("node-a", Role.NODE)
    assert it.addresses == ("node-a", "10.0.0.11", "fd00::11")


def test_a_users_certificate_is_none_of_a_server(ca: Path) -> None:
    assert issue(ca, "operator", "ann") == ExitCode.DONE
    said = openssl("x509", "-in", ca / "ann.crt", "-noout", "-text")
    assert "TLS Web Client Authentication" in said
    assert "TLS Web Server Authentication" not in said
    assert "DNS:" not in said


def test_nothing_is_overwritten(ca: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert issue(ca, "node", "node-a") == ExitCode.DONE
    before = {path.name: path.read_bytes() for path in ca.iterdir()}
    assert issue(ca, "operator", "node-a") == ExitCode.NOT_POSSIBLE
    assert "drover ca renew node-a" in capsys.readouterr().err
    assert run(["ca", "init", str(ca)]) == ExitCode.NOT_POSSIBLE
    assert {path.name: path.read_bytes() for path in ca.iterdir()} == before


def test_renewing_keeps_the_key_unless_told_and_what_was_said(ca: Path) -> None:
    issue(ca, "node", "node-a", "--address", "10.0.0.11", "--days", "30")
    old, key = Certificate.read(ca / "node-a.crt"), (ca / "node-a.key").read_bytes()
    assert run(["ca", "renew", "node-a", "--dir", str(ca)]) == ExitCode.DONE
    new = Certificate.read(ca / "node-a.crt")
    assert (new.peer, new.addresses) == (old.peer, old.addresses)
    assert new.expires > old.expires + timedelta(days=300)
    assert (ca / "node-a.key").read_bytes() == key
    assert run(["ca", "renew", "node-a", "--new-key", "--dir", str(ca)]) == ExitCode.DONE
    assert (ca / "node-a.key").read_bytes() != key


def test_only_what_is_due_is_renewed_without_names(ca: Path, capsys: pytest.CaptureFixture[str]) -> None:
    issue(ca, "node", "node-a")
    before = (ca / "node-a.crt").read_bytes()
    assert run(["ca", "renew", "--dir", str(ca)]) == ExitCode.DONE
    assert "Nothing is due" in capsys.readouterr().out
    assert (ca / "node-a.crt").read_bytes() == before


def test_a_certificate_is_due_when_less_than_a_third_of_its_life_is_left() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    it = Certificate(None, False, (), (), start, start + timedelta(days=30), "")
    assert not it.due(start + timedelta(days=20))
    assert it.due(start + timedelta(days=20, seconds=1))
    assert it.due(start + timedelta(days=31))


def test_what_was_issued_before_the_authority_was_renewed_is_good_with_either(ca: Path, tmp_path: Path) -> None:
    issue(ca, "node", "node-a")
    old = tmp_path / "old.crt"
    old.write_bytes((ca / "ca.crt").read_bytes())
    assert run(["ca", "renew", "ca", "--dir", str(ca)]) == ExitCode.DONE
    issue(ca, "node", "node-b")
    for name in ("node-a", "node-b"):
        for authority in (old, ca / "ca.crt"):
            assert "OK" in openssl("verify", "-CAfile", authority, ca / f"{name}.crt")


def test_show_lists_all_and_files_of_others(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    issue(ca, "node", "node-a", "--address", "fd00::1")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", tmp_path / "k")
    openssl(
        "req",
        "-x509",
        *curve,
        "-out",
        tmp_path / "other.crt",
        "-subj",
        "/OU=node/CN=node-z",
        "-days",
        "9",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    )
    capsys.readouterr()
    assert run(["ca", "show", "--json", "--dir", str(ca)]) == ExitCode.DONE
    shown = {it["name"]: it for it in json.loads(capsys.readouterr().out)["certificates"]}
    assert {name: it["role"] for name, it in shown.items()} == {"farm": "ca", "node-a": "node"}
    assert shown["node-a"]["addresses"] == ["node-a", "fd00::1"]
    assert datetime.fromisoformat(shown["node-a"]["expires"]) > datetime.now(UTC) + timedelta(days=364)
    assert run(["ca", "show", str(tmp_path / "other.crt")]) == ExitCode.DONE
    assert "node  node-z" in capsys.readouterr().out


def test_what_is_issued_ends_no_later_than_its_authority(tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    assert run(["ca", "init", str(ca), "--days", "10"]) == ExitCode.DONE
    issue(ca, "node", "node-a")
    assert Certificate.read(ca / "node-a.crt").expires == Certificate.read(ca / "ca.crt").expires


def test_the_authoritys_key_is_not_renewed_and_the_text_says_what_to_do_instead(
    ca: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in ca.iterdir()}
    assert run(["ca", "renew", "ca", "--new-key", "--dir", str(ca)]) == ExitCode.USAGE
    assert "drover ca init" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in ca.iterdir()} == before


HOSTILE = ["", "../x", "a b", "x" * 10_000, "a\nb", "a\x1b[31mb", "\udcff", "a/b", "-", "ä", "a'b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_makes_no_file_anywhere(ca: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(ca.parent.rglob("*"))
    for words in (["issue", "node", name], ["renew", name], ["issue", "node", "a", "--address", name]):
        assert run(["ca", *words, "--dir", str(ca)]) in (ExitCode.USAGE, ExitCode.NOT_POSSIBLE)
    assert run(["ca", "init", str(ca / "x"), "--cluster", name]) == ExitCode.USAGE
    assert sorted(ca.parent.rglob("*")) == before
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"", b"not PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.crt").write_bytes(content)
    with pytest.raises(Unusable, match=r"x\.crt is no certificate in PEM"):
        Certificate.read(tmp_path / "x.crt")
