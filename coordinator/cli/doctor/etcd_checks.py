"""What is wrong with etcd. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from drover.coordinator.addresses import is_loopback
from drover.coordinator.cli.doctor.findings import Finding, failing, note, ok, warning
from drover.coordinator.cli.output import listing
from drover.coordinator.etcd_survey import Answering, EtcdFacts, Latency, Listed, NotTold, Silent
from drover.coordinator.etcd_versions import Corrupting, Flawed, Sound, judge
from drover.coordinator.sizes import format_size

QUOTA = 2 << 30
"""Bytes: etcd's own default."""
SLOW, TOO_SLOW = 0.1, 0.5
"""Seconds that a write may take: a heartbeat is given 0.8 of its interval, 0.4 s with fast timings."""
SLOW_DISK = 0.01
"""Seconds: etcd's documentation wants 99 % of its fsyncs below this."""
MANY = 500_000
"""Revisions of history: agents that compact keep 250,000 at the most, and ten minutes more."""


def members(facts: EtcdFacts) -> list[Finding]:
    there, silent = facts.answering, [it for it in facts.members if isinstance(it, Silent)]
    all_of_them = len(facts.members) if isinstance(facts.listed, NotTold) else len(facts.listed)
    found: list[Finding] = []
    if not there:
        why = "; ".join(f"{it.address}: {it.why}" for it in silent)
        todo = "Look whether etcd runs, and what --endpoints says; writers stop when their deadline has passed."
        return [failing("etcd", f"no member answers from here: {why}", todo)]
    for one in silent:
        gone = warning if 2 * len(there) > all_of_them else failing
        found.append(gone("etcd", f"{one.address} does not answer: {one.why}", "Look at its log; start it again."))
    if led := sorted({it.leader for it in there} - {""}):
        apart = [it.address for it in there if not it.leader]
        if apart or len(led) > 1:
            todo = "Look at the network between the members."
            found.append(failing("etcd", f"members do not agree on a leader: {listing(apart or led)}", todo))
    else:
        found.append(failing("etcd", "there is no leader: nothing can be written", "Bring a majority of members back."))
    if len({it.cluster for it in there}) > 1:
        todo = "Name the members of one etcd only in --endpoints and in each node's settings."
        found.append(failing("etcd", "the endpoints belong to different etcd clusters", todo))
    if not isinstance(facts.listed, NotTold) and (unnamed := _unnamed(facts.listed, there)):
        todo = "Name every member, so that each can fail: etcd.endpoints in each node's settings."
        found.append(warning("etcd", f"members that no endpoint names: {listing(unnamed)}", todo))
    if all_of_them == 1:
        todo = "Run three, on three machines: then each can fail."
        found.append(note("etcd", "there is one member: while it is away, every writer stops", todo))
    elif all_of_them % 2 == 0:
        what = f"{all_of_them} members bear no more failures than {all_of_them - 1}"
        found.append(note("etcd", what, "Run an odd number."))
    return found or [ok("etcd", f"{len(there)} members answer and have a leader")]


def _unnamed(listed: tuple[Listed, ...], there: tuple[Answering, ...]) -> list[str]:
    known = {it.id for it in there}
    apart = [it.name or it.id for it in listed if it.id not in known]
    return apart if len(listed) > len(there) else []


def versions(facts: EtcdFacts) -> list[Finding]:
    found: list[Finding] = []
    by_version = sorted({it.version for it in facts.answering})
    for version in by_version:
        match verdict := judge(version):
            case Sound():
                found.append(ok("etcd version", f"{version} has no known bug that touches Drover"))
            case Corrupting():
                found.append(failing("etcd version", str(verdict), "Update it now; it is not used."))
            case Flawed():
                numbers = listing([f"etcd {bug.number}: {bug.effect}" for bug in verdict.bugs])
                todo = "No dataset is at risk; moves can be late. Update to its newest 3.5 or 3.6 release."
                found.append(warning("etcd version", f"{version} has known bugs: {numbers}", todo))
            case _:
                found.append(warning("etcd version", str(verdict), "Use etcd 3.4 to 3.6."))
    if len(by_version) > 1:
        what = f"members run {listing(by_version)}"
        found.append(note("etcd version", what, "Fine while etcd is updated; finish it."))
    return found


def agreement(facts: EtcdFacts) -> list[Finding]:
    """Members that hold something else though they have compacted alike."""
    hashes: dict[int, set[int]] = {}
    for member in facts.answering:
        if not isinstance(member.hash, NotTold):
            hashes.setdefault(member.compacted, set()).add(member.hash)
    if any(len(different) > 1 for different in hashes.values()):
        todo = "Stop the agents' writers (drover pause does not), find the member that differs, and replace it."
        return [failing("etcd data", "members hold different data: etcd is corrupt", todo)]
    compared = sum(not isinstance(member.hash, NotTold) for member in facts.answering)
    if compared < len(facts.answering):
        return [note("etcd data", "not every member told the hash of its data, so they were not compared")]
    return [ok("etcd data", "members hold the same")] if compared > 1 else []


def alarms(facts: EtcdFacts) -> list[Finding]:
    if isinstance(facts.alarms, NotTold):
        return [note("etcd alarms", f"not told: {facts.alarms.why}")] if facts.answering else []
    todo = "NOSPACE: compact and defragment, then etcdctl alarm disarm. CORRUPT: replace that member."
    return (
        [failing("etcd alarms", f"raised: {listing(facts.alarms)}", todo)]
        if facts.alarms
        else [ok("etcd alarms", "none")]
    )


def speed(facts: EtcdFacts) -> list[Finding]:
    found: list[Finding] = []
    for member in facts.answering:
        about = "etcd speed"
        told = [member.write, member.linearizable, member.serializable]
        if isinstance(member.write, NotTold):
            found.append(note(about, f"{member.address}: a write was not timed: {member.write.why}"))
        elif member.write.median >= SLOW:
            judged = failing if member.write.median >= TOO_SLOW else warning
            todo = "Give etcd a disk of its own (SSD) and a quiet network; or choose slower timings."
            found.append(judged(about, f"{member.address}: {_times(*told)}", todo))
        else:
            found.append(ok(about, f"{member.address}: {_times(*told)}"))
        fsync = None if isinstance(member.numbers, NotTold) else member.numbers.fsync
        if fsync is not None and fsync > SLOW_DISK:
            what = f"{member.address}: 99 % of its fsyncs take up to {fsync * 1000:.0f} ms; 10 ms is what etcd wants"
            todo = "Give etcd a disk of its own, an SSD."
            found.append(warning("etcd disk", what, todo) if fsync > SLOW else note("etcd disk", what, todo))
    return found


def _times(write: Latency | NotTold, through: Latency | NotTold, own: Latency | NotTold) -> str:
    named = (("a write", write), ("a linearizable read", through), ("a serializable read", own))
    return ", ".join(f"{name} {it.median * 1000:.1f} ms" for name, it in named if isinstance(it, Latency))


def room(facts: EtcdFacts) -> list[Finding]:
    found: list[Finding] = []
    for member in facts.answering:
        told = member.numbers
        quota = None if isinstance(told, NotTold) else told.quota
        full = member.size / (quota or QUOTA)
        of = format_size(quota) if quota else f"{format_size(QUOTA)}, etcd's default (its own is not told)"
        what = f"{member.address}: {member.size >> 20} MiB of {of}"
        todo = "Compact, then etcdctl defrag --endpoints of one member after the other; raise --quota-backend-bytes."
        if full >= 0.8:
            found.append((failing if full >= 0.95 else warning)("etcd room", what, todo))
        else:
            found.append(ok("etcd room", what))
    return found


def compaction(facts: EtcdFacts) -> list[Finding]:
    told = [it.revision - it.compacted for it in facts.answering if not isinstance(it.hash, NotTold)]
    if not told:
        return []
    kept = max(told)
    if kept > MANY:
        todo = 'Start the agents with compact = "auto", or etcd with --auto-compaction-retention.'
        return [warning("etcd history", f"nobody compacts it: {kept:,} revisions are kept", todo)]
    return [ok("etcd history", f"{kept:,} revisions are kept")]


def plain_text(facts: EtcdFacts) -> list[Finding]:
    """Addresses on which others can listen in and write."""
    urls = [] if isinstance(facts.listed, NotTold) else [u for it in facts.listed for u in (*it.clients, *it.peers)]
    open_ones = {url for url in urls if url.startswith("http://") and not is_loopback(urlsplit(url).netloc)}
    if not facts.secure:
        open_ones |= {f"http://{it.address}" for it in facts.members if not is_loopback(it.address)}
    if open_ones:
        todo = "Whoever reaches these can read and change everything: use TLS (https), or keep etcd on loopback."
        return [warning("INSECURE", f"etcd talks without TLS at {listing(sorted(open_ones))}", todo)]
    return []


CHECKS: tuple[Callable[[EtcdFacts], list[Finding]], ...] = (
    members,
    versions,
    agreement,
    alarms,
    speed,
    room,
    compaction,
    plain_text,
)
