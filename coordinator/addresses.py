"""`host:port` as people write it: `127.0.0.1:7470`, `[::1]:7470`, `node-a.example:7470`."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def host_port(text: str) -> tuple[str, int]:
    """The host without brackets, and the port; port 0 takes any free one. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    host, port = parts.hostname, parts.port
    if not host or port is None or parts.netloc != text or "@" in text or any(not 32 < ord(c) < 127 for c in text):
        raise ValueError(f"{text!r} is not host:port")
    return host, port


def joined(host: str, port: int) -> str:
    """As `host_port` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(text: str) -> bool:
    """Whether only this machine reaches what listens at `text`; of names, only `localhost` is known to be so."""
    host, _ = host_port(text)
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def reachable(text: str) -> str:
    """Where this machine reaches what listens at `text`: every address is also loopback's."""
    host, port = host_port(text)
    return joined({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
