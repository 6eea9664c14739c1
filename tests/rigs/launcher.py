"""Runs syncd's commands as processes that can be cut at any system call, many a second.

A process of its own: it has imported syncd once, and forks a child for each command, which saves
the half second that an interpreter needs to start. It reads one JSON object a line:

    {"argv": ["once"], "env": {...}, "log": PATH, "seconds": 60, "plants": [...], "trap": null}

and answers two: `{"pid": N}`, and at the child's end `{"code": N or null, "signal": N or null,
"calls": N, "last": TEXT}`. With a trap, `{"calls": ["sendto", ...], "at": K, "error": null or
NUMBER, "every": false}`, the K-th of these system calls of all the child's threads together is its
last: SIGKILL comes before the kernel does what was asked. With an error the call fails with it
instead (`every`: from there on, each). strace can do so too, but counts each thread for itself,
and so cannot enumerate what a process with several does.

By ptrace and seccomp, on x86-64; it needs no privilege.
"""

import ctypes
import gc
import json
import os
import platform
import random
import resource
import signal
import struct
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

CALLS = {
    "write": 1, "pwrite64": 18, "writev": 20, "sendto": 44, "recvfrom": 45, "sendmsg": 46,
    "recvmsg": 47, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "rename": 82, "unlink": 87,
    "unlinkat": 263, "renameat": 264, "renameat2": 316,
}  # fmt: skip
#: The modules of the commands that the rigs run: children find them imported.
PRELOADED = (
    "syncd.cli.run",
    "syncd.cli.once",
    "syncd.cli.status",
    "syncd.watch.observer",
    "plants",
)

# From linux/ptrace.h, linux/prctl.h, linux/seccomp.h, linux/bpf_common.h.
TRACEME, CONT, GETREGS, SETREGS, SETOPTIONS, GETEVENTMSG = 0, 7, 12, 13, 0x4200, 0x4201
OPTIONS = 0x0000_008E | 0x0010_0000  # fork, vfork, clone, seccomp events; killed with the tracer
EVENT_SECCOMP = 7
WALL = 0x4000_0000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, TRACE = 0x7FFF_0000, 0x7FF0_0000
#: Where orig_rax and rax stand in struct user_regs_struct, of 27 words.
REGISTERS, ORIG_RAX, RAX = 27, 15, 10

_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, pid: int, address: int = 0, data: Any = 0) -> None:
    if _libc.ptrace(request, pid, ctypes.c_void_p(address), ctypes.c_void_p(data)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")


def _filter(calls: list[str]) -> None:
    """Stop this process, and every thread it will have, before each of `calls`."""
    numbers = [CALLS[name] for name in calls]
    code = [struct.pack("=HBBI", LOAD, 0, 0, 0)]
    for index, number in enumerate(numbers):
        code.append(struct.pack("=HBBI", JUMP_EQUAL, 0, 1, number))
        code.append(struct.pack("=HBBI", RETURN, 0, 0, TRACE | index))
    code.append(struct.pack("=HBBI", RETURN, 0, 0, ALLOW))
    program = ctypes.create_string_buffer(b"".join(code))
    header = struct.pack("@HP", len(code), ctypes.addressof(program))
    if (
        _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1
        or _libc.prctl(PR_SET_SECCOMP, FILTER, header) == -1
    ):
        raise OSError(ctypes.get_errno(), "no seccomp filter")


class Tracer:
    """Follows one child, counts its calls, and springs the trap."""

    def __init__(self, pid: int, trap: dict[str, Any]) -> None:
        self.pid, self.trap = pid, trap
        self.calls, self.last = 0, ""

    def follow(self) -> int:
        """Follow the child to its end; return its wait status."""
        os.waitpid(self.pid, WALL)
        _ptrace(SETOPTIONS, self.pid, data=OPTIONS)
        _ptrace(CONT, self.pid)
        while True:
            tid, status = os.waitpid(-1, WALL)
            if not os.WIFSTOPPED(status):
                if tid == self.pid:
                    return status
                continue
            # A thread may be gone by the time it is told to go on.
            with suppress(ProcessLookupError):
                self._stopped(tid, status)

    def _stopped(self, tid: int, status: int) -> None:
        number, event = os.WSTOPSIG(status), status >> 16
        if event == EVENT_SECCOMP:
            self.calls += 1
            at = self.trap["at"]
            if self.calls == at or (self.trap["every"] and self.calls > at > 0):
                self._spring(tid)
        # A new thread reports with a SIGSTOP that nobody sent.
        passed_on = 0 if event or number in (signal.SIGSTOP, signal.SIGTRAP) else number
        _ptrace(CONT, tid, data=passed_on)

    def _spring(self, tid: int) -> None:
        index = ctypes.c_ulong()
        _ptrace(GETEVENTMSG, tid, data=ctypes.addressof(index))
        name = self.trap["calls"][index.value]
        process = Path(f"/proc/{tid}")
        try:
            # A thread that is killed just now shows no call, or is gone.
            argument = int((process / "syscall").read_text().split()[1], 16)
            target = (process / "fd" / str(argument)).readlink().name
        except (OSError, IndexError):
            target = "-"
        self.last = f"{name} {target}"
        if self.trap["error"] is None:
            os.kill(self.pid, signal.SIGKILL)
            return
        registers = (ctypes.c_ulong * REGISTERS)()
        _ptrace(GETREGS, tid, data=ctypes.addressof(registers))
        # No such system call: the kernel does nothing, and returns what stands in rax.
        registers[ORIG_RAX] = ctypes.c_ulong(-1).value
        registers[RAX] = ctypes.c_ulong(-self.trap["error"]).value
        _ptrace(SETREGS, tid, data=ctypes.addressof(registers))


def _become(job: dict[str, Any]) -> None:
    """Make this fork the process that was asked for; its command line comes last."""
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.environ.clear()
    os.environ.update(job["env"])
    random.seed()
    sys.argv = ["syncd", *job["argv"]]
    plants = import_module("plants")
    for name in job["plants"]:
        getattr(plants, name)()
    if job["trap"]:
        _ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _filter(job["trap"]["calls"])


def _end(pid: int) -> None:
    # Its end may be just what the alarm interrupts the wait for.
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def serve() -> bool:
    """Answer until there is no more to do; return True in the child that a command is to run in."""
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(job)
            return True
        _say({"pid": pid})
        signal.signal(signal.SIGALRM, lambda *_, pid=pid: _end(pid))
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        trap = job["trap"]
        tracer = Tracer(pid, trap or {})
        status = tracer.follow() if trap else os.waitpid(pid, 0)[1]
        late = signal.setitimer(signal.ITIMER_REAL, 0)[0] == 0
        ended = os.waitstatus_to_exitcode(status)
        _say(
            {
                "code": ended if ended >= 0 else None,
                "signal": -ended if ended < 0 else None,
                "calls": tracer.calls,
                "last": "its time was up" if late else tracer.last,
            }
        )
    return False


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    if platform.machine() != "x86_64":
        raise SystemExit("the launcher knows the system calls of x86-64 only")
    for module in PRELOADED:
        import_module(module)
    # Memory that the children share is left where it is: no collection in them copies its pages.
    gc.collect()
    gc.freeze()
    if serve():
        code = import_module("syncd.cli").call(sys.argv[1:])
        sys.stdout.flush()
        # Taking the interpreter apart would cost as much as the pass.
        os._exit(code)


if __name__ == "__main__":
    main()
