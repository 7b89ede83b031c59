"""The settings of one agent: a TOML file, then DROVER_* in the environment, then flags; the later wins.

A wrong setting is one line that names the key and where it was set: `load` raises it as ConfigError. Nothing here looks
at etcd or at storage; the tables [backends.<name>] are checked by the back ends' factories (`Settings.backend_error`).
deploy/agent.toml explains every key to users.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

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

from drover.agent import config_values as values
from drover.agent import tls
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
from drover.agent.guard.settings import NOTHING
from drover.coordinator.addresses import host_port, is_loopback
from drover.coordinator.keys import DEFAULT_PREFIX
from drover.coordinator.protocol.leaving import OnShutdown
from drover.coordinator.record import Name
from drover.coordinator.timings import MAX_PAUSE, PROFILES, Timings


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


def _guarded(listen: Listen, info: ValidationInfo) -> Listen:
    """Plain text only where nobody else hears it, or where somebody has said that it may be."""
    if info.data.get("insecure", True) or "tls" not in info.data:
        return listen
    for key, where in _overheard(listen, bool(info.data["tls"])).items():
        raise ValueError(
            f"{key} = {where!r} can be reached from other machines, and without TLS anybody there can listen in: "
            f"set the table [tls] (drover ca issue node makes its files), listen on 127.0.0.1 or [::1], "
            f"or say insecure = true"
        )
    return listen


def _overheard(listen: Listen, secured: bool) -> dict[str, str]:
    """What other machines reach without TLS, by key."""
    plain = {} if secured else {"grpc": listen.grpc, "http": listen.http, "data": listen.data}
    if listen.http_clients == "plain":
        plain["http"] = listen.http
    if listen.data_peers == "plain":
        plain.pop("data", None)
    return {key: where for key, where in plain.items() if not is_loopback(where)}


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Tls(_Table):
    """ca: whom to trust; None: the system's. cert and key: who we are, to etcd."""

    ca: values.FilePath | None = None
    cert: values.FilePath | None = None
    key: values.FilePath | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together: set both or neither")
        return self


class Etcd(_Table):
    """How etcd is reached. timeout: seconds, of one request."""

    endpoints: Annotated[
        tuple[Annotated[str, AfterValidator(values.endpoint)], ...], BeforeValidator(values.listed), Field(min_length=1)
    ] = ("http://127.0.0.1:2379",)
    timeout: Annotated[float, BeforeValidator(values.number), Field(gt=0, le=60)] = 2.0
    tls: Annotated[Tls | None, BeforeValidator(values.parsed)] = None
    user: str = ""
    password_file: values.FilePath | None = None

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

    ca: values.FilePath
    cert: values.FilePath
    key: values.FilePath

    @property
    def files(self) -> tls.Files:
        return tls.Files(self.ca, self.cert, self.key)


class Listen(_Table):
    """Where others look at this agent. http_clients: what [tls] means for those of `http`: they need a certificate of
    our CA, or none ("any"), or it is without TLS ("plain"). data: where other nodes send the data of moves;
    data_peers: that network is trusted where this is "plain"."""

    grpc: values.HostPort = "127.0.0.1:7470"
    http: values.HostPort = "127.0.0.1:7471"
    http_clients: Literal["certificate", "any", "plain"] = "certificate"
    data: values.HostPort = "127.0.0.1:7472"
    data_peers: Literal["certificate", "plain"] = "certificate"


Texts = Annotated[tuple[str, ...], BeforeValidator(values.listed)]


class Containers(_Table):
    """What containers may be, where workloads may be such. images: patterns; binds: directories; capabilities: beyond
    those that the engine gives everybody."""

    images: Texts = ("*",)
    binds: Annotated[tuple[values.AbsolutePath, ...], BeforeValidator(values.listed)] = ()
    capabilities: Texts = ()
    privileged: bool = False


class Workloads(_Table):
    """allow: kinds of workloads that a key in etcd may start here; none unless said."""

    allow: Annotated[tuple[Annotated[str, AfterValidator(values.kind)], ...], BeforeValidator(values.listed)] = ()
    docker: Annotated[Containers, BeforeValidator(values.parsed)] = Containers()


class Moves(_Table):
    """rate: bytes a second that each move may put on the wire; None: no limit."""

    rate: Annotated[int | None, BeforeValidator(values.rate)] = None


class Guard(_Table):
    """reset: what resets this machine where its guard cannot stop all writing by D_io."""

    reset: Annotated[str, AfterValidator(values.reset)] = NOTHING


class EtcdAway(_Table):
    """promises: writers go on while etcd answers nobody, as long as every other node that is here promises to wait; for
    `at_most` seconds."""

    promises: bool = False
    at_most: Annotated[float, BeforeValidator(values.number), Field(gt=0, le=MAX_PAUSE)] = 600.0


class Docker(_Table):
    """socket: where Docker Engines find the volume plugin; empty: there is none. engine: the engine's own socket.
    backend, size: of volumes that do not say it; empty: they have to."""

    socket: str = ""
    engine: values.AbsolutePath = Path("/run/docker.sock")
    backend: str = ""
    size: str = ""


class Otlp(_Table):
    """collector: where OpenTelemetry's collector listens for gRPC; "": what OTEL_EXPORTER_OTLP_ENDPOINT says, else
    nothing is sent."""

    collector: Annotated[str, AfterValidator(lambda value: value and values.endpoint(value))] = ""


Free = Annotated[dict[str, Any], BeforeValidator(values.parsed)]


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
    tls: Annotated[OwnTls | None, BeforeValidator(values.parsed)] = None
    listen: Annotated[Listen, BeforeValidator(values.parsed), AfterValidator(_guarded)] = Listen()
    address: Annotated[str, AfterValidator(_address)] = ""
    storage_address: Annotated[str, AfterValidator(_storage_address)] = ""
    prefix: Annotated[str, AfterValidator(values.prefix)] = DEFAULT_PREFIX
    run_dir: values.AbsolutePath = Path("/run/drover")
    state_dir: values.AbsolutePath = Path("/var/lib/drover")
    mount_root: values.AbsolutePath = Path("/srv/drover")
    cgroup: Annotated[str, AfterValidator(values.cgroup)] = "drover"
    group: Annotated[str, Field(pattern=r"[a-z_][a-z0-9_-]{0,31}")] = "drover"
    machine_id: Annotated[str, AfterValidator(values.machine_id)] = ""
    timings: Annotated[Timings, BeforeValidator(values.timings)] = PROFILES["default"]
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    compact: Literal["auto", "off"] = "auto"
    on_shutdown: OnShutdown = "move"
    shutdown_timeout: Annotated[float, BeforeValidator(values.number), Field(gt=0, le=600)] = 60.0
    reboot_grace: Annotated[float, BeforeValidator(values.number), Field(ge=0, le=MAX_PAUSE)] = 300.0
    etcd: Annotated[Etcd, BeforeValidator(values.parsed)] = Etcd()
    backends: Annotated[dict[str, Free], BeforeValidator(values.parsed)] = {}
    moves: Annotated[Moves, BeforeValidator(values.parsed)] = Moves()
    workloads: Annotated[Workloads, BeforeValidator(values.parsed)] = Workloads()
    guard: Annotated[Guard, BeforeValidator(values.parsed)] = Guard()
    etcd_away: Annotated[EtcdAway, BeforeValidator(values.parsed)] = EtcdAway()
    docker: Annotated[Docker, BeforeValidator(values.parsed)] = Docker()
    otlp: Annotated[Otlp, BeforeValidator(values.parsed)] = Otlp()

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

    @property
    def overheard(self) -> tuple[str, ...]:
        """Addresses of its ports that other machines reach without TLS: none, unless `insecure` was said."""
        return tuple(_overheard(self.listen, self.tls is not None).values())

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
    given: dict[str, Any] = {}
    for layer in reversed(layers):
        given = merged(given, layer.values)
    try:
        settings = Settings(**given)
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
