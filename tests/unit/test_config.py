"""Settings: precedence, and that every wrong one is one clear line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import drover
from drover.agent import config_sources, config_values
from drover.agent.config import Settings, load, load_or_exit
from drover.agent.config_errors import ConfigError, leaves
from drover.coordinator.timings import PROFILES

EXAMPLE = Path(__file__).parents[2] / "deploy" / "agent.toml"
Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def no_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_sources, "DEFAULT_FILE", tmp_path / "default.toml")
    machine = tmp_path / "machine-id"
    machine.write_text("c0ffee\n")
    monkeypatch.setattr(config_values, "MACHINE_ID", machine)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "agent.toml"
        path.write_text(text)
        return path

    return write


def test_without_any_source_the_defaults_hold() -> None:
    settings = load(["--node", "a"], {})
    assert settings.etcd.endpoints == ("http://127.0.0.1:2379",)
    assert settings.timings == PROFILES["default"]
    assert settings.workloads.allow == ()
    assert settings.machine_id == "c0ffee"


def test_a_flag_wins_over_the_environment_and_that_over_the_file(write: Write) -> None:
    path = write('node = "file"\nprefix = "/file"\ncgroup = "file"\n[etcd]\ntimeout = 1\nendpoints = ["http://f:1"]\n')
    environ = {"DROVER_CONFIG": str(path), "DROVER_NODE": "env", "DROVER_PREFIX": "/env", "DROVER_ETCD__TIMEOUT": "3"}
    settings = load(["--node", "flag"], environ)
    assert (settings.node, settings.prefix, settings.cgroup) == ("flag", "/env", "file")
    assert (settings.etcd.timeout, settings.etcd.endpoints) == (3.0, ("http://f:1",))


def test_the_config_flag_wins_over_the_config_variable_and_that_over_the_default_file(write: Write) -> None:
    config_sources.DEFAULT_FILE.write_text('node = "default"')
    named = str(write('node = "named"'))
    assert load([], {}).node == "default"
    assert load([], {"DROVER_CONFIG": named}).node == "named"
    assert load(["--config", named], {"DROVER_CONFIG": "/nowhere"}).node == "named"


@pytest.mark.parametrize("text", ['["http://a:1", "http://b:2"]', "http://a:1,http://b:2", "http://a:1, http://b:2"])
def test_a_list_is_json_or_comma_separated(text: str) -> None:
    wanted = ("http://a:1", "http://b:2")
    assert load(["--node", "a"], {"DROVER_ETCD__ENDPOINTS": text}).etcd.endpoints == wanted
    assert load(["--node", "a", "--set", f"etcd.endpoints={text}"], {}).etcd.endpoints == wanted


def test_variables_of_the_drover_command_are_not_settings_of_the_agent() -> None:
    settings = load(["--node", "a"], {"DROVER_ENDPOINTS": "http://other:1", "DROVERS": "x"})
    assert settings.etcd.endpoints == ("http://127.0.0.1:2379",)


def test_timings_are_a_profile_or_a_table(write: Write) -> None:
    assert load(["--set", "timings=fast"], {"DROVER_NODE": "a"}).timings == PROFILES["fast"]
    path = write('node = "a"\n[timings]\nwait = 9.0\n')
    assert load(["--config", str(path)], {}).timings == PROFILES["default"].model_copy(update={"wait": 9.0})


def test_tables_of_back_ends_are_passed_on_as_they_are(write: Write) -> None:
    path = write('node = "a"\n[backends.loopback]\ndirectory = "/x"\nlimit = 3\n[backends.other]\n')
    settings = load(["--config", str(path)], {"DROVER_BACKENDS__OTHER__POOL": "tank"})
    assert settings.backends == {"loopback": {"directory": "/x", "limit": 3}, "other": {"pool": "tank"}}


@pytest.mark.parametrize(
    ("listen", "address", "wanted"),
    [
        ("10.1.2.3:7470", "", "10.1.2.3"),
        ("[fd00::1]:7470", "", "fd00::1"),
        ("0.0.0.0:7470", "", "this-host"),
        ("10.1.2.3:7470", "node-a.example", "node-a.example"),
    ],
)
def test_the_address_is_where_grpc_listens_unless_said(
    listen: str, address: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "this-host")
    environ = {"DROVER_LISTEN__GRPC": listen, "DROVER_ADDRESS": address, "DROVER_INSECURE": "true"}
    assert load(["--node", "a"], environ).address == wanted


@pytest.mark.parametrize(
    ("data", "storage_address", "wanted"),
    [("10.1.2.3:7472", "", "10.1.2.3"), ("[::]:7472", "", "10.0.0.1"), ("[::]:7472", "10.7.7.7", "10.7.7.7")],
)
def test_data_comes_to_where_the_data_port_listens_unless_said(data: str, storage_address: str, wanted: str) -> None:
    flags = ["--node", "a", "--set", "address=10.0.0.1", "--set", "insecure=true", "--set", f"listen.data={data}"]
    assert load([*flags, "--set", f"storage_address={storage_address}"], {}).storage_address == wanted


def test_the_data_port_may_be_plain_where_its_network_is_said_to_be_trusted() -> None:
    flags = ["--node", "a", "--set", "listen.data=10.1.2.3:7472"]
    assert load([*flags, "--set", "listen.data_peers=plain"], {}).listen.data_peers == "plain"


@pytest.mark.parametrize(("text", "rate"), [("400MiB", 400 << 20), ("0", None), ("1000", 1000)])
def test_the_rate_of_moves_is_bytes_a_second(text: str, rate: int | None) -> None:
    assert load(["--node", "a", "--set", f"moves.rate={text}"], {}).moves.rate == rate


@pytest.mark.parametrize("key", ["grpc", "http", "data"])
@pytest.mark.parametrize("host", ["10.1.2.3", "0.0.0.0", "[::]", "[fd00::1]", "node-a"])
def test_ports_that_others_reach_are_refused_without_tls_and_the_text_says_what_to_do(key: str, host: str) -> None:
    flags = ["--node", "a", "--set", f"listen.{key}={host}:1"]
    with pytest.raises(ConfigError) as error:
        load(flags, {})
    said = str(error.value)
    assert f"listen: {key} = '{host}:1' can be reached from other machines" in said
    assert all(word in said for word in ("[tls]", "drover ca issue node", "127.0.0.1", "insecure = true"))
    assert load(["--node", "a"], {}).overheard == ()
    assert load([*flags, "--set", "insecure=true"], {}).overheard == (f"{host}:1",)


def test_with_certificates_ports_may_be_anywhere_unless_http_stays_plain(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    files = [word for name in ("ca", "cert", "key") for word in ("--set", f"tls.{name}={tmp_path / name}")]
    flags = ["--node", "a", *files, "--set", "listen.grpc=[::]:1"]
    assert load([*flags, "--set", "listen.http=0.0.0.0:2"], {}).tls
    assert load([*flags, "--set", "listen.http_clients=plain"], {}).tls
    with pytest.raises(ConfigError, match=r"http = '0\.0\.0\.0:2' can be reached"):
        load([*flags, "--set", "listen.http=0.0.0.0:2", "--set", "listen.http_clients=plain"], {})


def test_the_password_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    settings = load(
        ["--node", "a", "--set", "etcd.user=drover", "--set", f"etcd.password_file={tmp_path}/password"], {}
    )
    assert settings.etcd.credentials() == ("drover", "secret")
    assert "secret" not in repr(settings)


WRONG_FILES = [
    ('nod = "a"', "nod: unknown key; did you mean node?"),
    ('endpoints = ["http://a:1"]', "endpoints: unknown key; did you mean etcd.endpoints?"),
    ("[etcd]\nendpoint = []", "etcd.endpoint: unknown key; did you mean etcd.endpoints?"),
    ("[etcd.tls]\nkeyfile = '/k'", "etcd.tls.keyfile: unknown key; did you mean etcd.tls.key?"),
    ("zzz = 1", "zzz: unknown key"),
    ("node = 5", "node: must be text, not 5"),
    ('node = "a b"', "node: the name has ' '; allowed are ASCII letters, digits, '_', '.' and '-'"),
    (
        'prefix = "drover"',
        "prefix: prefix 'drover' must look like '/drover': a slash, then letters, digits, '_', '.', '-'",
    ),
    ('run_dir = "run"', "run_dir: must be an absolute path, not 'run'"),
    ('cgroup = "../up"', "cgroup: must be a path below the cgroup2 mount, like 'drover', not '../up'"),
    ('log_level = "loud"', "log_level: must be 'debug', 'info', 'warning' or 'error', not 'loud'"),
    ("etcd = 3", "etcd: must be a table, not 3"),
    ('[etcd]\ntimeout = "soon"', "etcd.timeout: must be a number, not 'soon'"),
    ("[etcd]\ntimeout = true", "etcd.timeout: must be a number, not True"),
    ("[etcd]\ntimeout = 0", "etcd.timeout: must be more than 0, not 0"),
    ("[etcd]\nendpoints = []", "etcd.endpoints: must not be empty"),
    ("[etcd]\nendpoints = 3", "etcd.endpoints: must be a list of texts, not 3"),
    (
        '[etcd]\nendpoints = ["10.0.0.1"]',
        "etcd.endpoints: '10.0.0.1' must look like 'http://10.0.0.1:2379' or 'https://etcd-1:2379'",
    ),
    ('[etcd]\nendpoints = ["http://a:1", "https://b:1"]', "etcd: endpoints must be all http or all https"),
    ("[etcd.tls]", "etcd: tls is set, so endpoints must begin with https://"),
    ('[etcd.tls]\nca = "/nowhere/ca.pem"', "etcd.tls.ca: there is no file '/nowhere/ca.pem'"),
    ('[etcd]\nuser = "drover"', "etcd: user and password_file go together: set both or neither"),
    ('[listen]\ngrpc = "7470"', "listen.grpc: must look like '127.0.0.1:7470' or '[::1]:7470', not '7470'"),
    ('[listen]\nhttp = "a:99999"', "listen.http: must look like '127.0.0.1:7470' or '[::1]:7470', not 'a:99999'"),
    ('[tls]\nca = "/etc/hostname"', "tls.cert: must be set"),
    ('insecure = "maybe"', "insecure: must be true or false, not 'maybe'"),
    ('timings = "quick"', "timings: must be one of fast, default, relaxed, or a table, not 'quick'"),
    ("[timings]\nwait = 3", "timings: wait must be at least 1.02 * d_hard + 0.3 = 6.93, not 3.0"),
    ("[timings]\nheartbeat = 3", "timings: timings must satisfy 2 * heartbeat < d_soft < d_io < d_hard"),
    (
        "[timings]\nd_sof = 3",
        "timings: unknown key 'd_sof'; a table has heartbeat, d_soft, d_io, d_hard, wait, lease_ttl",
    ),
    ("[backends]\nloopback = 3", "backends.loopback: must be a table, not 3"),
    ('[workloads]\nallow = ["proces"]', "workloads.allow: 'proces' is no kind of workload; there are process, docker"),
]


@pytest.mark.parametrize(("text", "wrong"), WRONG_FILES)
def test_a_wrong_key_in_the_file_is_one_line_that_names_it(text: str, wrong: str, write: Write) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as error:
        load(["--config", str(path)], {"DROVER_MACHINE_ID": "m"})
    assert str(error.value) == f"drover-agent: {wrong} (from {path})"


WRONG_ELSEWHERE = [
    ([], {"DROVER_PREFIX__X": "/a"}, "prefix: must be text, not {'x': '/a'} (from DROVER_PREFIX__X)"),
    ([], {"DROVER_ZZZ__X": "a"}, "zzz: unknown key (from DROVER_ZZZ__X)"),
    ([], {"DROVER_NOD": "a"}, "nod: unknown key; did you mean node? (from DROVER_NOD)"),
    ([], {"DROVER_ETCD__TIMEOUT": "x"}, "etcd.timeout: must be a number, not 'x' (from DROVER_ETCD__TIMEOUT)"),
    (
        [],
        {"DROVER_ETCD__TIMEOU": "1"},
        "etcd.timeou: unknown key; did you mean etcd.timeout? (from DROVER_ETCD__TIMEOU)",
    ),
    ([], {"DROVER_ETCD": '{"timeout": 0}'}, "etcd.timeout: must be more than 0, not 0 (from DROVER_ETCD)"),
    (
        [],
        {"DROVER_ETCD__ENDPOINTS": "[http"},
        "etcd.endpoints: is not JSON: Expecting value: line 1 column 2 (char 1) (from DROVER_ETCD__ENDPOINTS)",
    ),
    (
        [],
        {"DROVER_TIMINGS__WAIT": "3"},
        "timings: wait must be at least 1.02 * d_hard + 0.3 = 6.93, not 3.0 (from DROVER_TIMINGS__WAIT)",
    ),
    (["--set", "etcd.timeout=x"], {}, "etcd.timeout: must be a number, not 'x' (from --set)"),
    (["--set", "nod=a"], {}, "nod: unknown key; did you mean node? (from --set)"),
    (["--set", "node"], {}, "--set node: must look like key=value or key.sub=value"),
    (["--node", "-"], {}, "node: the name must begin and end with a letter or a digit (from --node)"),
    (["--log-level", "x"], {}, "log_level: must be 'debug', 'info', 'warning' or 'error', not 'x' (from --log-level)"),
    (["--nodes", "a"], {}, "unrecognized arguments: --nodes a; see drover-agent --help"),
    (["--config", "/nowhere"], {}, "the settings file cannot be read: No such file or directory (from /nowhere)"),
    ([], {"DROVER_CONFIG": "/nowhere"}, "the settings file cannot be read: No such file or directory (from /nowhere)"),
]


@pytest.mark.parametrize(("argv", "environ", "wrong"), WRONG_ELSEWHERE)
def test_a_wrong_flag_or_variable_is_one_line_that_names_it(
    argv: list[str], environ: dict[str, str], wrong: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load(argv, {"DROVER_NODE": "a"} | environ)
    assert str(error.value) == f"drover-agent: {wrong}"


def test_the_source_that_is_named_is_the_one_that_wins(write: Write) -> None:
    path = write("[etcd]\ntimeout = 1\n")
    with pytest.raises(ConfigError, match=r"\(from DROVER_ETCD__TIMEOUT\)$"):
        load(["--config", str(path), "--node", "a"], {"DROVER_ETCD__TIMEOUT": "x"})


def test_a_file_that_is_not_toml_is_said_to_be_so(write: Write) -> None:
    path = write("node = ")
    with pytest.raises(ConfigError) as error:
        load(["--config", str(path)], {})
    assert str(error.value) == (
        f"drover-agent: the settings file is not TOML: Invalid value (at end of document) (from {path})"
    )


def test_a_host_name_that_cannot_be_a_node_name_is_said_to_be_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "-")
    with pytest.raises(ConfigError, match=r"^drover-agent: node: .* \(from the host name\)$"):
        load([], {})


def test_a_machine_without_an_id_must_be_given_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_values, "MACHINE_ID", tmp_path / "none")
    with pytest.raises(ConfigError, match=r"^drover-agent: machine_id: .*none cannot be read .*: set machine_id$"):
        load(["--node", "a"], {})
    assert load(["--node", "a", "--set", "machine_id=m"], {}).machine_id == "m"


def test_what_a_back_end_says_of_its_table_becomes_the_same_line(write: Write) -> None:
    path = write('node = "a"\n[backends.loopback]\nsize = 3\n')
    settings = load(["--config", str(path)], {})
    wrong = settings.backend_error("loopback", ValueError("unknown key 'size'"))
    assert str(wrong) == f"drover-agent: backends.loopback: unknown key 'size' (from {path})"


def test_a_wrong_setting_ends_the_program_with_2_and_its_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_or_exit(["--node", ""], {})
    assert ended.value.code == 2
    assert capsys.readouterr().err == "drover-agent: node: the name is empty (from --node)\n"


def test_check_looks_at_the_back_ends_too_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    def check(settings: Settings) -> None:
        if settings.backends:
            raise settings.backend_error("x", ValueError("no such back end"))

    with pytest.raises(SystemExit) as ended:
        load(["--check", "--node", "a"], {}, check)
    assert ended.value.code == 0
    assert capsys.readouterr().out == "drover-agent: the settings are valid\n"
    with pytest.raises(ConfigError, match=r"backends\.x: no such back end \(from DROVER_BACKENDS__X__Y\)$"):
        load(["--check", "--node", "a"], {"DROVER_BACKENDS__X__Y": "1"}, check)


@pytest.mark.parametrize(("flag", "said"), [("--version", f"drover-agent {drover.__version__}"), ("--help", "--set")])
def test_version_and_help_are_told_even_where_settings_are_wrong(
    flag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load([flag], {"DROVER_NODE": ""})
    assert ended.value.code == 0
    assert said in capsys.readouterr().out


def test_the_example_is_valid_as_it_is() -> None:
    assert load(["--config", str(EXAMPLE), "--node", "a"], {}).model_dump() == load(["--node", "a"], {}).model_dump()


def test_the_example_shows_every_key_with_its_default() -> None:
    shown = tomllib.loads(re.sub(r"(?m)^#(?=\w+ = |\[)", "", EXAMPLE.read_text()))

    def look(path: tuple[str, ...]) -> object:
        found: object = shown
        for key in path:
            assert isinstance(found, dict), path
            assert key in found, f"{'.'.join(path)} is missing in {EXAMPLE}"
            found = found[key]
        return found

    for path in leaves(Settings):
        if path[0] != "timings" or len(path) == 1:
            look(path)
        else:
            assert f"{path[-1]} = " in EXAMPLE.read_text()
    del shown["node"], shown["tls"], shown["etcd"]["tls"], shown["etcd"]["password_file"]
    backends = shown.pop("backends")
    assert Settings(node="a", **shown).model_dump() == Settings(node="a").model_dump()
    assert set(Settings(node="a", backends=backends).backends) >= {"loopback", "btrfs", "zfs"}
