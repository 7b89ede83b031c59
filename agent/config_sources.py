"""Where settings come from: flags, DROVER_* in the environment, a TOML file; each a layer of nested tables."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings.sources.utils import parse_env_vars

import drover
from drover.agent.config_errors import ConfigError

DEFAULT_FILE = Path("/etc/drover/agent.toml")
PREFIX = "DROVER_"

NOT_SETTINGS = frozenset({"DROVER_CONFIG", "DROVER_ENDPOINTS"})
"""The file's name, and what is meant for the `drover` command."""


@dataclass(frozen=True)
class Layer:
    """What one source sets, and how that source is called in an error, for a path of keys."""

    values: dict[str, Any]
    origin: Callable[[tuple[str, ...]], str]


class Environment(EnvSettingsSource):
    """pydantic's reading of nested variables, from a given mapping; variables that name no setting are kept, so that
    they are refused and not ignored."""

    def __init__(self, settings: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self.environ = {k: v for k, v in environ.items() if k.startswith(PREFIX) and k not in NOT_SETTINGS}
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return parse_env_vars(self.environ)

    def layer(self) -> Layer:
        values: dict[str, Any] = {}
        for name, value in self.environ.items():
            key, below, rest = name.removeprefix(PREFIX).lower().partition("__")
            values[key] = {rest: value} if below else value
        return Layer(values | self(), self._origin)

    def _origin(self, path: tuple[str, ...]) -> str:
        names = sorted(self.environ)
        for length in range(len(path), 0, -1):
            whole = PREFIX + "__".join(path[:length]).upper()
            if found := [n for n in names if n.upper() == whole or n.upper().startswith(f"{whole}__")]:
                return found[0]
        return "the environment"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError("", f"{message}; see drover-agent --help")


def command_line() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="drover-agent",
        description="Drover's agent: one on every node. `drover-agent tokens`, with the same options, prints the "
        "volumes that this node can see, and the tokens stored with them, for `drover recover`; "
        "`drover-agent examine` what is found on this machine, for `drover doctor`; "
        "`drover-agent shutdown` hands over or keeps what is here, as the machine's shutdown does; "
        "`drover-agent install [ROOT]` writes units for systemd, and settings.",
        epilog="Settings come from the file, then DROVER_* in the environment (DROVER_ETCD__TIMEOUT=1), then flags.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help=f"TOML; default: $DROVER_CONFIG, then {DEFAULT_FILE}")
    parser.add_argument("--node", metavar="NAME", help="name of this node; default: the host name")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    parser.add_argument("--set", metavar="KEY.SUB=VALUE", action="append", default=[], help="any setting; repeatable")
    parser.add_argument("--check", action="store_true", help="say whether the settings are valid, and exit")
    parser.add_argument("--version", action="version", version=f"drover-agent {drover.__version__}")
    return parser


def flag_layer(arguments: argparse.Namespace) -> Layer:
    values: dict[str, Any] = {}
    own = {"node": arguments.node, "log_level": arguments.log_level}
    for item in arguments.set:
        key, equals, value = item.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError("", f"--set {item}: must look like key=value or key.sub=value")
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = merged(values, nested)
    values |= {key: value for key, value in own.items() if value is not None}
    named = {key: f"--{key.replace('_', '-')}" for key, value in own.items() if value is not None}
    return Layer(values, lambda path: named.get(path[0], "--set"))


def file_layer(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Layer:
    named = arguments.config or environ.get(f"{PREFIX}CONFIG")
    path = Path(named) if named else DEFAULT_FILE
    if not named and not path.exists():
        return Layer({}, lambda _: "")
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError("", f"the settings file cannot be read: {error.strerror}", str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("", f"the settings file is not TOML: {error}", str(path)) from None
    return Layer(values, lambda _: str(path))


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def origin(layers: Sequence[Layer], path: tuple[str, ...]) -> str:
    """Of the layers that set the path, or the longest beginning of it that any sets: the one that wins."""
    for length in range(len(path), 0, -1):
        for layer in layers:
            value: Any = layer.values
            for key in path[:length]:
                value = value.get(key, _UNSET) if isinstance(value, dict) else _UNSET
            if value is not _UNSET:
                return layer.origin(path[:length])
    return ""


_UNSET = object()
