"""A client of etcd as the settings say."""

from __future__ import annotations

from drover.agent import config
from drover.agent.config_errors import ConfigError
from drover.coordinator.etcd import Credentials, Etcd, Observe, Tls, unobserved


def connect(settings: config.Etcd, own_key: str, observe: Observe = unobserved) -> Etcd:
    """A context manager. own_key, observe: see `Etcd`. Raises ConfigError where a file is of no use."""
    tls = Tls(settings.tls.ca, settings.tls.cert, settings.tls.key) if settings.tls else None
    login = settings.credentials()
    credentials = Credentials(*login) if login else None
    try:
        return Etcd(
            settings.endpoints,
            timeout=settings.timeout,
            tls=tls,
            credentials=credentials,
            own_key=own_key,
            observe=observe,
        )
    except OSError as error:
        raise ConfigError("etcd.tls", f"cannot be used: {error}") from None
