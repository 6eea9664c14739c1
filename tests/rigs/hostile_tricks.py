"""The tricks of a hostile user in a watched folder, and at the listener: a function each.

Each takes its own place in the folder and a number that differs from call to call. What the system
forbids is no trick of ours: OSError is passed over.
"""

import ctypes
import fcntl
import mmap
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple


class Target(NamedTuple):
    """The targets of the tricks: files outside the folder, the listener's port, the daemon."""

    outside: Path
    port: int
    state: Path
    pid: int


Trick = Callable[[Path, int, Target], None]
TRICKS: list[Trick] = []
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def trick(function: Trick) -> Trick:
    TRICKS.append(function)
    return function


def swap(one: Path, other: Path) -> None:
    """Exchange two names at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.renameat2(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE)


@trick
def link_to_a_secret(place: Path, n: int, target: Target) -> None:
    (place / f"link{n}.txt").symlink_to(target.outside / "secret.txt")


@trick
def link_to_a_directory(place: Path, n: int, target: Target) -> None:
    (place / f"dir{n}").symlink_to(target.outside)


@trick
def hard_link(place: Path, n: int, target: Target) -> None:
    (place / f"hard{n}").hardlink_to(target.outside / "secret.txt")


@trick
def swap_file_and_link(place: Path, n: int, target: Target) -> None:
    file, link = place / f"swap{n}.txt", place / f"swap{n}.link"
    file.write_text("harmless" * 100)
    link.symlink_to(target.outside / "secret.txt")
    for _ in range(3000):
        swap(file, link)


@trick
def swap_directory_and_link(place: Path, n: int, target: Target) -> None:
    directory, link = place / f"swapdir{n}", place / f"swapdir{n}.link"
    directory.mkdir()
    (directory / "secret.txt").write_text("harmless")
    link.symlink_to(target.outside)
    for _ in range(3000):
        swap(directory, link)


@trick
def pipes_and_sockets(place: Path, n: int, _: Target) -> None:
    os.mkfifo(place / f"pipe{n}")
    with socket.socket(socket.AF_UNIX) as made, suppress(OSError):
        made.bind(str(place / f"s{n}"))


@trick
def names_that_terminals_obey(place: Path, n: int, _: Target) -> None:
    for name in (f"a\n{n}", f"\x1b[2J{n}", f"\u202e{n}", f"\x07{n}", f"<script>{n}", f'"{n}'):
        (place / name).write_text(name)


@trick
def names_that_look_like_options_and_formulas(place: Path, n: int, _: Target) -> None:
    for name in (f"-rf{n}", f"--config={n}", f"=1+{n}", f"$(touch {n})", f";{n}", f"`{n}`"):
        (place / name).write_text(name)


@trick
def names_of_odd_bytes(place: Path, n: int, _: Target) -> None:
    for name in (b"caf\xe9%d" % n, b"\xff" * 200 + b"%d" % n, b"x" * 250 + b"%04d" % (n % 10_000)):
        with suppress(OSError), open(bytes(place) + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write(name)


@trick
def a_name_that_holds_a_token(place: Path, n: int, _: Target) -> None:
    token = "sy2-00000000-" + "-".join(["0" * 12, "0" * 12, f"{n:x}", "0" * 16])
    (place / f"clip.{token}.mp4").write_text("not a video")


@trick
def deep_directories(place: Path, n: int, _: Target) -> None:
    here = os.open(place, os.O_RDONLY)
    for _level in range(400):
        name = f"d{n % 3}"
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


@trick
def many_files(place: Path, n: int, _: Target) -> None:
    directory = place / f"many{n % 2}"
    directory.mkdir(exist_ok=True)
    for number in range(300):
        (directory / f"{n}-{number}").write_bytes(b"%d" % number)


@trick
def a_sparse_giant(place: Path, n: int, _: Target) -> None:
    with (place / f"giant{n % 2}").open("wb") as file:
        file.truncate(1 << 40)


@trick
def a_file_that_grows(place: Path, n: int, _: Target) -> None:
    with (place / f"grows{n}").open("wb") as file:
        for _step in range(20):
            file.write(os.urandom(4096))
            file.flush()
            time.sleep(0.02)


@trick
def a_file_cut_while_it_is_read(place: Path, n: int, _: Target) -> None:
    path = place / f"cut{n % 3}"
    path.write_bytes(os.urandom(1 << 20))
    for size in range(1 << 20, 0, -(1 << 16)):
        os.truncate(path, size)
        time.sleep(0.02)


@trick
def a_file_written_by_memory(place: Path, n: int, _: Target) -> None:
    with (place / f"mapped{n % 3}").open("w+b") as file:
        file.truncate(1 << 16)
        with mmap.mmap(file.fileno(), 1 << 16) as memory:
            for at in range(0, 1 << 16, 4096):
                memory[at : at + 4] = b"%04d" % (n % 10_000)


@trick
def dates_out_of_range(place: Path, n: int, _: Target) -> None:
    path = place / f"dated{n}"
    path.write_text("dated")
    os.utime(path, (n, [-(1 << 40), 1 << 40, 0, 253_402_300_800][n % 4]))


@trick
def what_may_not_be_read(place: Path, n: int, _: Target) -> None:
    path = place / f"shut{n % 5}"
    path.mkdir(exist_ok=True)
    (path / "x").write_text("x")
    path.chmod([0, 0o700, 0o300][n % 3])


def rules(place: Path, name: str, content: bytes) -> Path:
    directory = place / name
    directory.mkdir(exist_ok=True)
    (directory / ("a" * 200)).touch()
    (directory / ".syncdignore").write_bytes(content)
    return directory


@trick
def rules_that_explode(place: Path, n: int, _: Target) -> None:
    rules(place, f"rules{n % 3}", b"*a" * (500 + n % 100) + b"*b\n" + b"**/*a*a/" * 100 + b"b\n")


@trick
def too_many_rules(place: Path, n: int, _: Target) -> None:
    rules(place, f"toomany{n % 3}", b"".join(b"%x*\n" % line for line in range(20_000 + n)))


@trick
def as_many_rules_as_may_be(place: Path, n: int, _: Target) -> None:
    directory = rules(place, f"full{n % 3}", b"".join(b"*%d*%d*x\n" % (k, n) for k in range(1000)))
    for level in range(10):
        directory /= f"n{level}"
        directory.mkdir(exist_ok=True)
        (directory / ".syncdignore").write_bytes(b"".join(b"%x*\n" % k for k in range(900)))


@trick
def rules_that_do_not_parse(place: Path, n: int, _: Target) -> None:
    rules(place, f"bad{n % 3}", [b"[z-a]\n", b"!\n", b"[[:x:]]\n", b"\\", b"\0\n", b"[\n"][n % 6])


@trick
def rules_that_are_no_file(place: Path, n: int, target: Target) -> None:
    directory = place / f"norules{n}"
    directory.mkdir()
    if n % 2:
        os.mkfifo(directory / ".syncdignore")
    else:
        (directory / ".syncdignore").symlink_to(target.outside / "secret.txt")


@trick
def rules_that_let_everything_in(place: Path, n: int, _: Target) -> None:
    directory = rules(place, f"open{n % 3}", b"!*\n!.*\n")
    (directory / ".env").write_text("a hidden file")
    (directory / "x.part").write_text("junk")


@trick
def rename_storm(place: Path, n: int, _: Target) -> None:
    path = place / f"storm{n % 3}"
    path.write_text("storm")
    for number in range(500):
        path = path.rename(place / f"storm{n % 3}-{number}")
    path.unlink()


@trick
def made_and_gone(place: Path, n: int, _: Target) -> None:
    for number in range(500):
        path = place / f"gone{n}-{number % 7}"
        path.write_text("gone")
        path.unlink()


@trick
def a_tree_swept_away(place: Path, n: int, _: Target) -> None:
    directory = place / f"tree{n}"
    for number in range(50):
        (directory / str(number)).mkdir(parents=True)
        (directory / str(number) / "f").write_text("f")
    shutil.rmtree(directory)


@trick
def locks_on_files(place: Path, n: int, _: Target) -> None:
    with (place / f"locked{n % 3}").open("w+b") as file:
        file.write(b"locked")
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        time.sleep(0.5)


@trick
def file_and_directory_in_turn(place: Path, n: int, _: Target) -> None:
    path = place / f"turn{n % 3}"
    for _step in range(50):
        with suppress(OSError):
            path.mkdir()
            path.rmdir()
            path.write_text("file")
            path.unlink()


# The listener, and the daemon itself


@trick
def idle_connections(_place: Path, _n: int, target: Target) -> None:
    with ExitStack() as held:
        for _connection in range(400):
            with suppress(OSError):
                held.enter_context(socket.create_connection(("127.0.0.1", target.port), 1))
        time.sleep(1)


@trick
def slow_headers(_place: Path, _n: int, target: Target) -> None:
    with socket.create_connection(("127.0.0.1", target.port), 1) as slow:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: ":
            slow.sendall(bytes([byte]))
            time.sleep(0.05)


@trick
def requests_of_nonsense(_place: Path, n: int, target: Target) -> None:
    for sent in (b"\0\r\n\r\n", b"GET " + b"x" * 70_000, os.urandom(1000), b"\r\n" * n):
        with suppress(OSError), socket.create_connection(("127.0.0.1", target.port), 1) as made:
            made.sendall(sent)
            made.recv(100)


@trick
def requests_of_another_site(_place: Path, _n: int, target: Target) -> None:
    request = b"POST /control/retry HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}"
    with socket.create_connection(("127.0.0.1", target.port), 1) as made:
        made.sendall(request)
        if b" 403 " not in made.recv(200):
            raise AssertionError("the listener answered a stranger")


@trick
def at_the_state_and_the_process(_place: Path, _n: int, target: Target) -> None:
    for attempt in (
        lambda: list(target.state.iterdir()),
        lambda: os.kill(target.pid, 9),
        lambda: Path(f"/proc/{target.pid}/environ").read_bytes(),
        lambda: (target.state / "lock").write_text("mine"),
    ):
        try:
            attempt()
        except OSError:
            continue
        raise AssertionError("a stranger got at the state or the process")
