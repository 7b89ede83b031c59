"""The settings of one agent: a TOML file, then DROVER_* in the environment, then flags; the later wins.

A wrong setting is one line that names the key and where it was set: `load` raises it as ConfigError. Nothing here looks
at etcd or at storage; the tables [backends.<name>] are checked by the back ends' factories (`Settings.backend_error`).
deploy/agent.toml explains every key to users.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from drover.agent import tls
from drover.agent.addresses import host_port, is_loopback
from drover.agent.config_errors import ConfigError, described
from drover.agent.config_sources import (
    PREFIX,
    Environment,
    Layer,
    command_line,
    file_layer,
    flag_layer,
    merged,
    origin,
)
from drover.agent.guard.settings import NOTHING, REBOOT
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.protocol.leaving import OnShutdown
from drover.coordinator.record import Name
from drover.coordinator.sizes import parse_size
from drover.coordinator.specs import WorkloadSpec
from drover.coordinator.timings import MAX_PAUSE, PROFILES, Timings

MACHINE_ID = Path("/etc/machine-id")


def _parsed(value: Any) -> Any:
    """Tables and lists come as text from the environment and from flags: JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is not JSON: {error}") from None
    return value


def _list(value: Any) -> Any:
    value = _parsed(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of texts, not {value!r}")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {value}")
    return value


def _timings(value: Any) -> Any:
    value = _parsed(value)
    if isinstance(value, str):
        if value not in PROFILES:
            raise ValueError(f"must be one of {', '.join(PROFILES)}, or a table, not {value!r}")
        return PROFILES[value]
    if isinstance(value, dict) and (unknown := sorted(set(value) - set(Timings.model_fields))):
        raise ValueError(f"unknown key {unknown[0]!r}; a table has {', '.join(Timings.model_fields)}")
    return value


def _endpoint(value: str) -> str:
    """`http://host:port`, as etcd's clients write it."""
    try:
        parts = urlsplit(value)
        rest = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port and not rest
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{value!r} must look like 'http://10.0.0.1:2379' or 'https://etcd-1:2379'")
    return value.rstrip("/")


def _host_port(value: str) -> str:
    """`host:port`, `[::1]:port`; port 0 takes any free one."""
    try:
        host_port(value)
    except ValueError:
        raise ValueError(f"must look like '127.0.0.1:7470' or '[::1]:7470', not {value!r}") from None
    return value


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError(f"must be an absolute path, not {str(value)!r}")
    return value


def _file(value: Path) -> Path:
    if not value.is_file():
        raise ValueError(f"there is no file {str(value)!r}")
    return value


def _prefix(value: str) -> str:
    Keys(value)
    return value


def _cgroup(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
        raise ValueError(f"must be a path below the cgroup2 mount, like 'drover', not {value!r}")
    return str(path)


def _address(value: str, info: ValidationInfo) -> str:
    """Empty: the host that gRPC listens on; the host name, where that is every address."""
    listen = info.data.get("listen")
    if value or listen is None:
        return value
    host, _ = host_port(listen.grpc)
    return host if host not in ("0.0.0.0", "::") else socket.gethostname()


def _storage_address(value: str, info: ValidationInfo) -> str:
    """Empty: the host that the data port listens on; `address`, where that is every address."""
    listen = info.data.get("listen")
    if value or listen is None:
        return value
    host, _ = host_port(listen.data)
    return host if host not in ("0.0.0.0", "::") else info.data.get("address", "")


def _rate(value: Any) -> Any:
    return None if value in (None, "", 0, "0") else parse_size(_number(value))


def _guarded(listen: Listen, info: ValidationInfo) -> Listen:
    """Plain text only where nobody else hears it, or where somebody has said that it may be."""
    if info.data.get("insecure", True) or "tls" not in info.data:
        return listen
    plain = {} if info.data["tls"] else {"grpc": listen.grpc, "http": listen.http, "data": listen.data}
    if listen.http_clients == "plain":
        plain["http"] = listen.http
    if listen.data_peers == "plain":
        plain.pop("data", None)
    for key, where in plain.items():
        if not is_loopback(where):
            raise ValueError(
                f"{key} = {where!r} can be reached from other machines, and without TLS anybody there can listen in: "
                f"set the table [tls] (drover ca issue node makes its files), listen on 127.0.0.1 or [::1], "
                f"or say insecure = true"
            )
    return listen


def _machine_id(value: str) -> str:
    if value:
        return value
    try:
        found = MACHINE_ID.read_text().strip()
    except OSError as error:
        raise ValueError(f"{MACHINE_ID} cannot be read ({error.strerror}): set machine_id") from None
    if not found:
        raise ValueError(f"{MACHINE_ID} is empty: set machine_id, or run systemd-machine-id-setup")
    return found


def _kind(value: str) -> str:
    kinds = get_args(WorkloadSpec.model_fields["kind"].annotation)
    if value not in kinds:
        raise ValueError(f"{value!r} is no kind of workload; there is {', '.join(kinds)}")
    return value


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
FilePath = Annotated[Path, AfterValidator(_absolute), AfterValidator(_file)]
HostPort = Annotated[str, AfterValidator(_host_port)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Tls(_Table):
    """ca: whom to trust; None: the system's. cert and key: who we are, to etcd."""

    ca: FilePath | None = None
    cert: FilePath | None = None
    key: FilePath | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together: set both or neither")
        return self


class Etcd(_Table):
    """How etcd is reached. timeout: seconds, of one request."""

    endpoints: Annotated[
        tuple[Annotated[str, AfterValidator(_endpoint)], ...], BeforeValidator(_list), Field(min_length=1)
    ] = ("http://127.0.0.1:2379",)
    timeout: Annotated[float, BeforeValidator(_number), Field(gt=0, le=60)] = 2.0
    tls: Annotated[Tls | None, BeforeValidator(_parsed)] = None
    user: str = ""
    password_file: FilePath | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.user) != (self.password_file is not None):
            raise ValueError("user and password_file go together: set both or neither")
        if len({endpoint.partition(":")[0] for endpoint in self.endpoints}) > 1:
            raise ValueError("endpoints must be all http or all https")
        if self.tls and self.endpoints[0].startswith("http:"):
            raise ValueError("tls is set, so endpoints must begin with https://")
        return self

    def credentials(self) -> tuple[str, str] | None:
        """User and password; None: etcd asks for none. Raises ConfigError where the file cannot be read."""
        if self.password_file is None:
            return None
        try:
            return self.user, self.password_file.read_text().strip()
        except OSError as error:
            raise ConfigError("etcd.password_file", f"cannot be read: {error.strerror}") from None


class OwnTls(_Table):
    """The certificate of this node on its own ports, and towards other agents. ca: who signs those of this cluster."""

    ca: FilePath
    cert: FilePath
    key: FilePath

    @property
    def files(self) -> tls.Files:
        return tls.Files(self.ca, self.cert, self.key)


class Listen(_Table):
    """Where others look at this agent. http_clients: what [tls] means for those of `http`: they need a certificate of
    our CA, or none ("any"), or it is without TLS ("plain"). data: where other nodes send the data of moves;
    data_peers: that network is trusted where this is "plain"."""

    grpc: HostPort = "127.0.0.1:7470"
    http: HostPort = "127.0.0.1:7471"
    http_clients: Literal["certificate", "any", "plain"] = "certificate"
    data: HostPort = "127.0.0.1:7472"
    data_peers: Literal["certificate", "plain"] = "certificate"


class Workloads(_Table):
    """allow: kinds of workloads that a key in etcd may start here; none unless said."""

    allow: Annotated[tuple[Annotated[str, AfterValidator(_kind)], ...], BeforeValidator(_list)] = ()


class Moves(_Table):
    """rate: bytes a second that each move may put on the wire; None: no limit."""

    rate: Annotated[int | None, BeforeValidator(_rate)] = None


def _reset(value: str) -> str:
    if value not in (NOTHING, REBOOT) and not Path(value).is_absolute():
        raise ValueError(f"must be '{NOTHING}', '{REBOOT}' or the path of a watchdog device, not {value!r}")
    return value


class Guard(_Table):
    """reset: what resets this machine where its guard cannot stop all writing by D_io."""

    reset: Annotated[str, AfterValidator(_reset)] = NOTHING


class Docker(_Table):
    """socket: where Docker Engines find the volume plugin; empty: there is none. engine: the engine's own socket.
    backend, size: of volumes that do not say it; empty: they have to."""

    socket: str = ""
    engine: AbsolutePath = Path("/run/docker.sock")
    backend: str = ""
    size: str = ""


class Otlp(_Table):
    """collector: where OpenTelemetry's collector listens for gRPC; "": what OTEL_EXPORTER_OTLP_ENDPOINT says, else
    nothing is sent."""

    collector: Annotated[str, AfterValidator(lambda value: value and _endpoint(value))] = ""


Free = Annotated[dict[str, Any], BeforeValidator(_parsed)]


class Settings(BaseSettings):
    """All settings of an agent. Constructed directly, it reads neither file nor environment: `load` does."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        enable_decoding=False,
    )

    node: Annotated[Name, Field(default_factory=lambda: socket.gethostname())]
    insecure: bool = False
    tls: Annotated[OwnTls | None, BeforeValidator(_parsed)] = None
    listen: Annotated[Listen, BeforeValidator(_parsed), AfterValidator(_guarded)] = Listen()
    address: Annotated[str, AfterValidator(_address)] = ""
    storage_address: Annotated[str, AfterValidator(_storage_address)] = ""
    prefix: Annotated[str, AfterValidator(_prefix)] = DEFAULT_PREFIX
    run_dir: AbsolutePath = Path("/run/drover")
    state_dir: AbsolutePath = Path("/var/lib/drover")
    mount_root: AbsolutePath = Path("/srv/drover")
    cgroup: Annotated[str, AfterValidator(_cgroup)] = "drover"
    machine_id: Annotated[str, AfterValidator(_machine_id)] = ""
    timings: Annotated[Timings, BeforeValidator(_timings)] = PROFILES["default"]
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    compact: Literal["auto", "off"] = "auto"
    on_shutdown: OnShutdown = "move"
    shutdown_timeout: Annotated[float, BeforeValidator(_number), Field(gt=0, le=600)] = 60.0
    reboot_grace: Annotated[float, BeforeValidator(_number), Field(ge=0, le=MAX_PAUSE)] = 300.0
    etcd: Annotated[Etcd, BeforeValidator(_parsed)] = Etcd()
    backends: Annotated[dict[str, Free], BeforeValidator(_parsed)] = {}
    moves: Annotated[Moves, BeforeValidator(_parsed)] = Moves()
    workloads: Annotated[Workloads, BeforeValidator(_parsed)] = Workloads()
    guard: Annotated[Guard, BeforeValidator(_parsed)] = Guard()
    docker: Annotated[Docker, BeforeValidator(_parsed)] = Docker()
    otlp: Annotated[Otlp, BeforeValidator(_parsed)] = Otlp()

    _layers: tuple[Layer, ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    def backend_error(self, name: str, wrong: ValueError) -> ConfigError:
        """What a back end's factory said of its table, as the line that every wrong setting gets."""
        path = ("backends", name)
        return ConfigError(".".join(path), str(wrong), origin(self._layers, path))


def load(argv: Sequence[str], environ: Mapping[str, str], check: Callable[[Settings], None] | None = None) -> Settings:
    """The settings that flags (without the program's name), environment and file give.

    check: looks further (back ends); its ConfigError is as good as ours. Raises ConfigError; SystemExit(0) after
    --help, --version and --check.
    """
    arguments = command_line().parse_args(argv)
    layers = (flag_layer(arguments), Environment(Settings, environ).layer(), file_layer(arguments, environ))
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        values = merged(values, layer.values)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        path, wrong = described(error, Settings)
        where = origin(layers, path) or ("the host name" if path == ("node",) else "")
        raise ConfigError(".".join(path), wrong, where) from None
    settings._layers = layers
    if check is not None:
        check(settings)
    if arguments.check:
        sys.stdout.write("drover-agent: the settings are valid\n")
        raise SystemExit(0)
    return settings


def load_or_exit(
    argv: Sequence[str], environ: Mapping[str, str], check: Callable[[Settings], None] | None = None
) -> Settings:
    """As `load`; a wrong setting is its line on stderr, and exit status 2."""
    try:
        return load(argv, environ, check)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
