"""A client of etcd as the settings say."""

from __future__ import annotations

from drover.agent import config
from drover.coordinator.etcd import Credentials, Etcd, Tls


def connect(settings: config.Etcd) -> Etcd:
    """A context manager. Raises ConfigError where the password cannot be read."""
    tls = Tls(settings.tls.ca, settings.tls.cert, settings.tls.key) if settings.tls else None
    login = settings.credentials()
    credentials = Credentials(*login) if login else None
    return Etcd(settings.endpoints, timeout=settings.timeout, tls=tls, credentials=credentials)
