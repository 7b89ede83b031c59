"""The connection to an etcd that wants TLS, or a user and password."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import grpc
import pytest

from drover.coordinator.etcd import Credentials, Etcd, Tls
from drover.coordinator.identity import Peer, Role
from drover.coordinator.mirror import Mirror
from drover.coordinator.store import Denied, StoreError, WatchBroken
from drover.coordinator.txn import Put, Txn
from tests.certificates import Certificates
from tests.etcd import FAST, EtcdCluster, free_ports

ADMIN = Credentials("root", "admin-secret")
USER = Credentials("drover", "secret")
MINE, END = "/drover/", "/drover0"


def etcdctl(cluster: EtcdCluster, *words: str, user: Credentials | None = None) -> None:
    login = () if user is None else ("--user", f"{user.user}:{user.password}")
    command = (str(Path(sys.executable).with_name("etcdctl")), "--endpoints", cluster.endpoints[0], *login, *words)
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@pytest.fixture(scope="module")
def guarded() -> Iterator[EtcdCluster]:
    """USER may read and write below MINE, and ADMIN everything."""
    with EtcdCluster(1, flags=(*FAST, "--bcrypt-cost", "4")) as cluster:
        etcdctl(cluster, "user", "add", f"{ADMIN.user}:{ADMIN.password}")
        etcdctl(cluster, "user", "grant-role", "root", "root")
        etcdctl(cluster, "user", "add", f"{USER.user}:{USER.password}")
        etcdctl(cluster, "role", "add", "drover")
        etcdctl(cluster, "role", "grant-permission", "drover", "readwrite", MINE, END)
        etcdctl(cluster, "user", "grant-role", "drover", "drover")
        etcdctl(cluster, "auth", "enable")
        yield cluster


def put(key: str) -> Txn:
    return Txn((), (Put(key, b""),))


async def test_a_user_may_do_what_its_role_says_and_nothing_else(guarded: EtcdCluster) -> None:
    async with Etcd(guarded.endpoints, credentials=USER) as store:
        written = await store.txn(put(f"{MINE}a"))
        assert await store.get(f"{MINE}a") is not None
        async with aclosing(store.watch(MINE, END, written.revision)) as watch:
            await anext(watch)
            assert (await anext(watch)).revision == written.revision
        lease = await store.grant(30)
        assert await store.keep_alive(lease) == 30
        with pytest.raises(Denied):
            await store.txn(put("/elsewhere"))
        with pytest.raises(Denied):
            await store.get("/elsewhere")
        with pytest.raises(Denied):
            await anext(store.watch("/", "0", written.revision))
        assert (await store.status()).revision >= written.revision


async def test_without_a_user_the_error_says_what_to_set(guarded: EtcdCluster) -> None:
    async with Etcd(guarded.endpoints) as store:
        with pytest.raises(Denied, match="set the user and password"):
            await store.get(f"{MINE}a")
        with pytest.raises(Denied):
            await anext(store.watch(MINE, END, 1))


async def test_a_wrong_password_is_denied_and_not_shown(guarded: EtcdCluster) -> None:
    async with Etcd(guarded.endpoints, credentials=Credentials(USER.user, "mistyped")) as store:
        with pytest.raises(Denied) as raised:
            await store.txn(put(f"{MINE}a"))
    assert "mistyped" not in str(raised.value)
    assert "mistyped" not in repr(Credentials(USER.user, "mistyped"))


async def test_a_token_that_etcd_has_forgotten_is_replaced_without_a_word(guarded: EtcdCluster) -> None:
    async with Etcd(guarded.endpoints, credentials=USER) as store:
        await store.get(f"{MINE}a")
        guarded.members[0].kill()
        guarded.repair()
        assert (await store.txn(put(f"{MINE}a"))).succeeded


async def test_a_token_from_before_a_change_of_permissions_is_replaced_without_a_word(guarded: EtcdCluster) -> None:
    async with Etcd(guarded.endpoints, credentials=USER) as store:
        revision = (await store.txn(put(f"{MINE}a"))).revision
        etcdctl(guarded, "role", "add", "another", user=ADMIN)
        assert (await store.txn(put(f"{MINE}a"))).succeeded
        etcdctl(guarded, "role", "delete", "another", user=ADMIN)
        lease = await store.grant(30)
        await store.revoke(lease)
        async with aclosing(store.watch(MINE, END, revision)) as watch:
            await anext(watch)
            assert (await anext(watch)).changes[0].revision == revision


async def test_a_token_that_has_expired_is_replaced_without_a_word_and_watches_stand_and_stand_again() -> None:
    with EtcdCluster(1, flags=(*FAST, "--bcrypt-cost", "4", "--auth-token-ttl", "1")) as cluster:
        etcdctl(cluster, "user", "add", f"{ADMIN.user}:{ADMIN.password}")
        etcdctl(cluster, "user", "grant-role", "root", "root")
        etcdctl(cluster, "auth", "enable")
        async with Etcd(cluster.endpoints, credentials=ADMIN) as store, asyncio.timeout(30):
            revision = (await store.txn(put(f"{MINE}a"))).revision
            async with aclosing(store.watch(MINE, END, revision)) as watch:
                await anext(watch)
                await anext(watch)
                # Whoever asked whether it has expired would lengthen its life.
                await asyncio.sleep(3)
                assert (await store.txn(put(f"{MINE}b"))).succeeded
                assert (await anext(watch)).changes[0].key == f"{MINE}b"
            await asyncio.sleep(3)
            following = Mirror(store, MINE, END, lambda _: None)
            running = asyncio.create_task(following.run())
            await following.ready(10)
            running.cancel()
            assert set(following.entries) == {f"{MINE}a", f"{MINE}b"}


async def test_a_watch_with_a_forgotten_token_breaks_and_the_next_one_stands(guarded: EtcdCluster) -> None:
    async with Etcd(guarded.endpoints, credentials=USER) as store:
        revision = (await store.txn(put(f"{MINE}a"))).revision
        guarded.members[0].kill()
        guarded.repair()
        for _ in range(20):
            try:
                async with aclosing(store.watch(MINE, END, revision)) as watch:
                    await anext(watch)
                    assert (await anext(watch)).changes[0].revision == revision
                    return
            except WatchBroken:
                continue
        raise AssertionError("no watch stood")


async def test_a_user_given_to_an_etcd_without_users_does_no_harm(etcd_one: EtcdCluster, etcd_prefix: str) -> None:
    async with Etcd(etcd_one.endpoints, credentials=USER) as store:
        assert (await store.txn(put(etcd_prefix))).succeeded


def openssl(directory: Path, *words: str) -> None:
    subprocess.run(("openssl", *words), check=True, capture_output=True, cwd=directory, timeout=20)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, and {member,client,stranger}.{crt,key}; the stranger is signed by nobody."""
    directory = tmp_path_factory.mktemp("tls")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(directory, *("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca"))
    openssl(directory, *("req", "-x509", *curve, "-keyout", "stranger.key", "-out", "stranger.crt", "-subj", "/CN=x"))
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("member", "client"):
        openssl(directory, *("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"))
        sign = ("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
        openssl(directory, *sign, "-out", f"{name}.crt", "-extfile", "names")
    return directory


@contextmanager
def secured(ours: Certificates, member: str) -> Iterator[tuple[EtcdCluster, str]]:
    """A member that wants a client certificate, and its endpoint for those."""
    port = free_ports(1)[0]
    files = ours.files(member)
    tls = ("--cert-file", str(files.cert), "--key-file", str(files.key), "--trusted-ca-file", str(files.ca))
    also = f"https://127.0.0.1:{port}"
    with EtcdCluster(1, flags=(*FAST, *tls, "--client-cert-auth"), also=also) as cluster:
        yield cluster, also


@pytest.fixture(scope="module")
def encrypted(certificates: Path) -> Iterator[str]:
    """The endpoint of a member that wants a client certificate, beside its plain one."""
    port = free_ports(1)[0]
    files = {"--cert-file": "member.crt", "--key-file": "member.key", "--trusted-ca-file": "ca.crt"}
    tls = [word for flag, name in files.items() for word in (flag, str(certificates / name))]
    with EtcdCluster(1, flags=(*FAST, *tls, "--client-cert-auth"), also=f"https://127.0.0.1:{port}"):
        yield f"https://127.0.0.1:{port}"


def client(certificates: Path, ca: str = "ca", name: str = "client") -> Tls:
    return Tls(certificates / f"{ca}.crt", certificates / f"{name}.crt", certificates / f"{name}.key")


async def test_tls_with_the_right_certificates_is_like_any_other(encrypted: str, certificates: Path) -> None:
    async with Etcd([encrypted], tls=client(certificates)) as store:
        assert (await store.txn(put("/a"))).succeeded
    async with Etcd([encrypted.removeprefix("https://")], tls=client(certificates)) as store:
        assert await store.get("/a") is not None


@pytest.mark.parametrize(("ca", "name"), [("stranger", "client"), ("ca", "stranger")])
async def test_a_certificate_that_one_side_does_not_believe_leaves_all_unreachable(
    encrypted: str, certificates: Path, ca: str, name: str
) -> None:
    async with Etcd([encrypted], tls=client(certificates, ca, name), timeout=0.5) as store:
        with pytest.raises(StoreError, match=encrypted.removeprefix("https://")):
            await store.get("/a")


async def test_tls_with_a_plain_endpoint_is_a_contradiction(certificates: Path) -> None:
    with pytest.raises(ValueError, match="write https://"):
        Etcd(["http://127.0.0.1:2379"], tls=client(certificates))


async def test_a_client_certificate_without_its_key_is_refused(certificates: Path) -> None:
    with pytest.raises(ValueError, match="both"):
        Etcd(["https://127.0.0.1:2379"], tls=Tls(cert=certificates / "client.crt"))


async def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pem"):
        Etcd(["https://127.0.0.1:2379"], tls=Tls(ca=Path("nowhere.pem")))


async def test_new_certificates_are_taken_up_without_losing_a_call_a_lease_or_a_watch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Certificates.make(tmp_path)
    ours.issue("member", Role.ETCD)
    ours.issue("client")
    with secured(ours, "member") as (_, endpoint):
        async with Etcd([endpoint], tls=ours.to_etcd("client"), timeout=0.7) as store, asyncio.TaskGroup() as group:
            revision = (await store.txn(put("/a"))).revision
            lease = await store.grant(30)
            mirror = Mirror(store, "/", "0", lambda _: None)
            following = group.create_task(mirror.run())
            keeping = group.create_task(store.follow_files(0.1))
            await mirror.ready(10)
            before = store._members.first
            ours.put("client", ours.authority.issue(Peer("client", Role.NODE), ()))
            async with asyncio.timeout(20):
                while store._members.first is before:
                    assert (await store.txn(put("/a"))).succeeded
                    await asyncio.sleep(0.01)
                while before.channel.get_state(False) is not grpc.ChannelConnectivity.SHUTDOWN:
                    assert (await store.txn(put("/a"))).succeeded
                    await asyncio.sleep(0.05)
                last = (await store.txn(put("/b"))).revision
                while "/b" not in mirror.entries:
                    await asyncio.sleep(0.01)
            assert await store.keep_alive(lease) > 0
            assert last > revision
            assert not following.done()
            assert not keeping.done()
            following.cancel()
            keeping.cancel()
        said = [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
        assert all("over a new connection from now on" in one for one in said), said


async def test_new_certificates_that_etcd_does_not_believe_leave_the_old_ones_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, strangers = Certificates.make(tmp_path / "ours"), Certificates.make(tmp_path / "strangers")
    ours.issue("member", Role.ETCD)
    ours.issue("client")
    with secured(ours, "member") as (_, endpoint):
        async with Etcd([endpoint], tls=ours.to_etcd("client"), timeout=0.5) as store:
            keeping = asyncio.create_task(store.follow_files(0.1))
            before = store._members.first
            assert (await store.txn(put("/a"))).succeeded
            ours.put("client", strangers.authority.issue(Peer("client", Role.NODE), ()))
            async with asyncio.timeout(20):
                while "not used towards etcd yet" not in caplog.text:
                    await asyncio.sleep(0.05)
            assert store._members.first is before
            assert (await store.txn(put("/a"))).succeeded
            ours.issue("client")
            async with asyncio.timeout(20):
                while store._members.first is before:
                    await asyncio.sleep(0.05)
            assert (await store.txn(put("/a"))).succeeded
            keeping.cancel()
            await asyncio.wait({keeping})
