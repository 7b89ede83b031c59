"""The tiny parent of a workload: starts it inside its cgroup, and writes down how it ended. Standard library only; run
as a file, with one argument: the descriptor of a socket to the agent.

It waits on that socket for a job, so that an agent can start it beforehand; from the workload's start on it needs the
agent no more, and holds no descriptor of it. When the agent goes away before that, nothing is started.

    agent → parent   one line of JSON: see `Job` in launch.py
    parent → agent   "entered": it is inside the workload's cgroup, where the guard would kill it
    agent → parent   "go": the gate was open after that
    parent → agent   what went wrong; nothing, and the end of the stream, once the command runs

Two cgroups below the workload's: this process is in `parent`, the command and all that it starts in `main`. So
cgroup.kill of the workload's own leaves nothing, this process included; and when the command ends by itself, this
process kills what is left in `main`, waits until that is empty, writes the exit record, and only then ends. Whoever
finds the workload's cgroup empty finds the record, or knows that both were killed.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

FORWARDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
PR_SET_CHILD_SUBREAPER = 36
AGAIN = 100
"""Milliseconds after which left-overs that are still there are killed again."""


def main() -> None:
    channel = int(sys.argv[1])
    os.set_inheritable(channel, False)
    if os.fork():
        os._exit(0)  # the agent reaps this one at once; the parent itself is init's, as it is after an agent's restart
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # daemons that the command leaves are reaped here
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    with suppress(BrokenPipeError, ConnectionResetError):
        serve(channel)


def serve(channel: int) -> None:
    with os.fdopen(channel, "r", closefd=False) as incoming:
        if not (line := incoming.readline()):
            return
        job = json.loads(line)
        try:
            enter(job["cgroup"] + "/parent")
        except OSError:  # killed and removed meanwhile
            return
        os.write(channel, b"entered\n")
        if incoming.readline() != "go\n":
            return
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    child, since, wrong = start(job)
    if wrong:
        os.write(channel, wrong.encode())
        return
    write(job["directory"] + "/started", {"pid": child, "since": since})
    os.close(channel)
    status, at = attend(child)
    clear(job["cgroup"] + "/main")
    write(job["directory"] + "/ended", {"status": status, "at": at, "ran": at - since})


def start(job: dict[str, Any]) -> tuple[int, float, str]:
    """The command's pid, when it was started, and why it could not be: empty once exec has succeeded."""
    said, say = os.pipe()
    since = now()
    child = os.fork()
    if child == 0:
        become(job, say)
    os.close(say)
    with os.fdopen(said, "r") as answer:
        return child, since, answer.read()


def become(job: dict[str, Any], say: int) -> NoReturn:
    """Turns this process into the command."""
    doing = "its cgroup"
    try:
        enter(job["cgroup"] + "/main")
        os.setsid()
        os.umask(0o022)
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("0")  # what protects the agent is not for workloads
        if job["user"]:
            doing = f"the user {job['user']['name']}"
            os.setgroups(job["user"]["groups"])
            os.setgid(job["user"]["gid"])
            os.setuid(job["user"]["uid"])
        doing = f"the working directory {job['working_dir']}"
        os.chdir(job["working_dir"])
        doing = f"the command {job['command'][0]}"
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
            signal.signal(ignored, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(job["command"][0], job["command"], job["environment"])
    except OSError as error:
        os.write(say, f"{doing}: {error.strerror}".encode())
    except ValueError as error:
        os.write(say, f"{doing}: {error}".encode())
    os._exit(127)


def attend(child: int) -> tuple[int, float]:
    """Until the command has ended: forwards signals to its process group and reaps. Its status, and when it ended."""
    while True:
        number = signal.sigwait(FORWARDED | {signal.SIGCHLD})
        if number != signal.SIGCHLD:
            with suppress(ProcessLookupError):
                os.killpg(child, number)
        for pid, status in reaped():
            if pid == child:
                return os.waitstatus_to_exitcode(status), now()


def reaped() -> list[tuple[int, int]]:
    found = []
    with suppress(ChildProcessError):
        while (one := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(one)
    return found


def clear(cgroup: str) -> None:
    """Kills what is left until the cgroup is empty, however long the kernel holds it."""
    events = os.open(cgroup + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    changed = select.poll()
    changed.register(events, select.POLLPRI)
    while b"populated 1" in os.pread(events, 4096, 0):
        kill(cgroup)
        changed.poll(AGAIN)
        reaped()


def kill(cgroup: str) -> None:
    try:
        descriptor = os.open(cgroup + "/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # Linux before 5.14
        with open(cgroup + "/cgroup.procs") as procs:
            for pid in map(int, procs):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return
    os.write(descriptor, b"1")
    os.close(descriptor)


def enter(cgroup: str) -> None:
    with open(cgroup + "/cgroup.procs", "w") as procs:
        procs.write("0")


def write(path: str, record: dict[str, float]) -> None:
    with open(path + ".new", "w") as file:
        json.dump(record, file)
    os.rename(path + ".new", path)


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    main()
