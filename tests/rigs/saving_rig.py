#!/usr/bin/env python3
"""Has real programs save into a watched folder: each makes one new version, and nothing else.

    python tests/rigs/saving_rig.py             every program, beneath a daemon
    python tests/rigs/saving_rig.py --long      LibreOffice and a browser, too
    python tests/rigs/saving_rig.py --record    writes tests/watch/saves/*.txt anew, by strace

What is missing is installed. What is recorded is played again by tests/watch/test_save_patterns.py,
where no program is needed.
"""

# row: 18

import argparse
import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from real_watching import Daemon, run, sftp_server, until
from world import Report

RECORDINGS = Path(__file__).parents[1] / "watch" / "saves"
NEW = "a line of the new content, which is longer than the old one\n" * 2000
TRACED = (
    "openat,open,creat,close,write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,"
    "fallocate,ftruncate,truncate,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,"
    "unlinkat,mkdir,mkdirat,rmdir,chmod,fchmod,fchmodat,utimensat,ioctl"
)
PACKAGES = {"rsync": "rsync", "emacs": "emacs-nox", "vim": "vim", "scp": "openssh-client",
            "gio": "libglib2.0-bin", "curl": "curl", "wget": "wget"}  # fmt: skip
LARGE_PACKAGES = {"soffice": "libreoffice-writer-nogui python3-uno", "chromium": "chromium"}

#: LibreOffice loads a document, changes it and stores it, as a person would by its menu.
LIBREOFFICE = """
import subprocess, sys, time, uno
from com.sun.star.beans import PropertyValue
profile, target = sys.argv[1:]
pipe = "syncd-rig-" + str(time.time_ns())
office = subprocess.Popen(["soffice", "--headless", "--norestore", "--nologo",
    "-env:UserInstallation=file://" + profile, f"--accept=pipe,name={pipe};urp;"])
local = uno.getComponentContext()
resolver = local.ServiceManager.createInstanceWithContext(
    "com.sun.star.bridge.UnoUrlResolver", local)
for _ in range(600):
    try:
        there = resolver.resolve(f"uno:pipe,name={pipe};urp;StarOffice.ComponentContext")
        break
    except Exception:
        time.sleep(0.1)
desktop = there.ServiceManager.createInstanceWithContext("com.sun.star.frame.Desktop", there)
hidden = PropertyValue("Hidden", 0, True, 0)
document = desktop.loadComponentFromURL("file://" + target, "_blank", 0, (hidden,))
document.Text.insertString(document.Text.getEnd(), "more text " * 500, False)
document.store()
document.close(True)
try:
    desktop.terminate()
except Exception:
    pass
office.wait(30)
"""


@dataclass
class Bench:
    """The folder that a program saves into, and the content that it saves."""

    folder: Path
    elsewhere: Path
    url: str
    #: put before each command
    prefix: Sequence[str] = field(default_factory=tuple)

    @property
    def source(self) -> Path:
        return self.elsewhere / "a.txt"

    def run(self, *words: object, **more: object) -> None:
        run(*self.prefix, *words, cwd=self.folder, timeout=120, **more)


def vim(bench: Bench, *settings: str) -> None:
    """As it does it anywhere but in /tmp, where it keeps no backup while it writes."""
    bench.run("vim", "-u", "NONE", "-i", "NONE", "-es", "-c", "set backupskip=", *settings,
              "-c", f"%d|r {bench.source}", "-c", "wq", "a.txt")  # fmt: skip


def vim_with_backup(bench: Bench) -> None:
    vim(bench, "-c", "set backup backupcopy=no")


def emacs(bench: Bench) -> None:
    """An auto-save before it is saved, as of somebody who thinks while they write."""
    lisp = (
        "(progn (setq backup-inhibited nil) (auto-save-mode 1) (erase-buffer)"
        f' (insert-file-contents "{bench.source}") (set-buffer-modified-p t) (do-auto-save t)'
        " (set-buffer-modified-p t) (save-buffer))"
    )
    bench.run("emacs", "-Q", "--batch", "a.txt", "--eval", lisp)


def rsync(bench: Bench) -> None:
    bench.run("rsync", "--times", "--bwlimit=200", bench.source, "a.txt")


def rsync_inplace(bench: Bench) -> None:
    bench.run("rsync", "--times", "--inplace", bench.source, "a.txt")


def scp(bench: Bench) -> None:
    """By the server's side of it, over a pipe: no port is open."""
    ssh = bench.elsewhere / "instead-of-ssh"
    ssh.write_text(f'#!/bin/sh\nexec "{sftp_server()}"\n')
    ssh.chmod(0o755)
    bench.run("scp", "-q", "-S", ssh, bench.source, f"rig:{bench.folder}/a.txt")


def curl(bench: Bench) -> None:
    bench.run("curl", "--silent", "--limit-rate", "100k", "--output", "a.txt", bench.url)


def wget(bench: Bench) -> None:
    bench.run("wget", "--quiet", "--output-document=a.txt", bench.url)


def sed(bench: Bench) -> None:
    bench.run("sed", "--in-place", f"$r {bench.source}", "a.txt")


def gio(bench: Bench) -> None:
    """As gedit and other programs of GNOME save."""
    with bench.source.open("rb") as content:
        bench.run("gio", "save", "a.txt", stdin=content)


def cp(bench: Bench) -> None:
    bench.run("cp", "--recursive", bench.elsewhere / "tree", "tree")


def libreoffice(bench: Bench) -> None:
    script = bench.elsewhere / "save.py"
    script.write_text(LIBREOFFICE)
    bench.run("/usr/bin/python3", script, bench.elsewhere / "profile", bench.folder / "a.odt")


def chromium(bench: Bench) -> None:
    """A download, by the protocol that drives a browser."""
    profile = bench.elsewhere / "browser"
    settings = profile / "Default" / "Preferences"
    settings.parent.mkdir(parents=True)
    directory = {"default_directory": str(bench.folder), "prompt_for_download": False}
    settings.write_text(json.dumps({"download": directory}))
    browser = subprocess.Popen(
        [*bench.prefix, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
         f"--user-data-dir={profile}", f"{bench.url}?download"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        until((bench.folder / "download.txt").exists, 60, "no download came")
        time.sleep(1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(browser.pid, 15)
        browser.wait(30)


@dataclass(frozen=True)
class Program:
    save: Callable[[Bench], None]
    needs: str = ""
    #: the files that it saves; the first is there before, except where it is `new`
    files: Sequence[str] = ("a.txt",)
    new: bool = False
    #: what else it leaves, which is excluded
    leaves: Sequence[str] = ()


PROGRAMS = {
    "vim": Program(vim, "vim"),
    "vim-with-backup": Program(vim_with_backup, "vim", leaves=["a.txt~"]),
    "emacs": Program(emacs, "emacs", leaves=["a.txt~"]),
    "rsync": Program(rsync, "rsync"),
    "rsync-inplace": Program(rsync_inplace, "rsync"),
    "scp": Program(scp, "scp"),
    "curl": Program(curl, "curl"),
    "wget": Program(wget, "wget"),
    "sed-in-place": Program(sed, "sed"),
    "gio": Program(gio, "gio"),
    "cp-recursive": Program(cp, "cp", ["tree/x", "tree/y", "tree/deeper/z"], new=True),
    "libreoffice": Program(libreoffice, "soffice", ["a.odt"]),
    "chromium": Program(chromium, "chromium", ["download.txt"], new=True),
}
LARGE = ("libreoffice", "chromium")


class Downloads(http.server.BaseHTTPRequestHandler):
    """Serves the new content, slowly enough that more than one piece is written."""

    def do_GET(self) -> None:
        body = NEW.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        if self.path.endswith("?download"):
            self.send_header("Content-Disposition", 'attachment; filename="download.txt"')
        self.end_headers()
        for start in range(0, len(body), 40_000):
            self.wfile.write(body[start : start + 40_000])
            self.wfile.flush()
            time.sleep(0.2)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Downloads)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a.txt"
    server.shutdown()
    server.server_close()


def make_bench(scratch: Path, name: str, url: str, prefix: Sequence[str] = ()) -> Bench:
    bench = Bench(scratch / name, scratch / f"for {name}".replace(" ", "-"), url, prefix)
    bench.folder.mkdir()
    bench.elsewhere.mkdir()
    bench.source.write_text(NEW)
    for path in PROGRAMS["cp-recursive"].files:
        copied = bench.elsewhere / path
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(NEW + path)
    program = PROGRAMS[name]
    if not program.new:
        target = bench.folder / program.files[0]
        if target.suffix == ".odt":
            make_document(target, bench.elsewhere)
        else:
            target.write_text("the old content\n")
    return bench


def make_document(target: Path, elsewhere: Path) -> None:
    text = elsewhere / f"{target.stem}.txt"
    run("soffice", "--headless", f"-env:UserInstallation=file://{elsewhere}/profile",
        "--convert-to", "odt", "--outdir", target.parent, text, timeout=120)  # fmt: skip


def install(names: Sequence[str]) -> None:
    packages = PACKAGES | LARGE_PACKAGES
    missing = {
        packages[needs]
        for name in names
        if (needs := PROGRAMS[name].needs) in packages and not shutil.which(needs)
    }
    if missing:
        run("apt-get", "install", "--yes", "--no-install-recommends", *" ".join(missing).split(),
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})  # fmt: skip


def live(names: Sequence[str], report: Report) -> None:
    """Have each program save beneath a daemon, and see what came of it at the service."""
    with tempfile.TemporaryDirectory(prefix="syncd-saving-") as place, serving() as url:
        scratch = Path(place)
        benches = {name: make_bench(scratch, name, url) for name in names}
        folders = [bench.folder for bench in benches.values()]
        with Daemon(scratch / "daemon", folders) as daemon:
            until(daemon.equals_disk, 60, daemon.log)
            _, before = daemon.live()
            for name, bench in benches.items():
                PROGRAMS[name].save(bench)
                problems = outcome(daemon, name, bench, before)
                _, before = daemon.live()
                report.check(f"{name} makes one new version, and nothing else", problems)


def outcome(daemon: Daemon, name: str, bench: Bench, before: int) -> list[str]:
    program = PROGRAMS[name]

    def synced() -> bool:
        rows = [row for row in daemon.manifest() if row["folder"] == bench.folder.name]
        return (
            {row["path"] for row in rows if row["status"] == "synced"} == set(program.files)
            and all(row["status"] in ("synced", "ignored") for row in rows)
            and all(row["size"] == (bench.folder / row["path"]).stat().st_size
                    for row in rows if row["status"] == "synced")
        )  # fmt: skip

    try:
        until(synced, 30, daemon.manifest)
    except AssertionError as error:
        return [str(error)]
    # A temporary file's upload would have been made by now.
    time.sleep(1.5)
    _, made = daemon.live()
    there = {path.relative_to(bench.folder).as_posix()
             for path in bench.folder.rglob("*") if path.is_file()}  # fmt: skip
    problems = []
    if made != before + len(program.files):
        problems.append(f"{made - before} objects were made, not {len(program.files)}")
    if there != {*program.files, *program.leaves}:
        problems.append(f"the program left {sorted(there)}")
    return problems


_CALL = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+\(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_FLAGS = {"O_CREAT": "create", "O_EXCL": "exclusive", "O_TRUNC": "truncate", "O_APPEND": "append"}


class Recording:
    """Turns what strace saw into steps on the files of one folder, one a line."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.fspath(folder)
        self.steps: list[str] = []
        #: what is open for writing: descriptor and path, as strace shows them -> our number
        self._handles: dict[tuple[str, str], int] = {}
        self._made = 0

    def read(self, trace: Path) -> None:
        halves: dict[str, str] = {}
        for line in trace.read_text(errors="replace").splitlines():
            if unfinished := _UNFINISHED.match(line):
                halves[unfinished[1]] = f"{unfinished[1]} {unfinished[2]}"
                continue
            if resumed := _RESUMED.match(line):
                line = halves.pop(resumed[1], "") + resumed[2]  # noqa: PLW2901
            if (call := _CALL.match(line)) and int(call[3]) >= 0:
                self._see(call[1], call[2], int(call[3]), line)

    def _name(self, path: str) -> str | None:
        plain = path.encode().decode("unicode_escape")
        whole = os.path.normpath(Path(self._folder, plain))
        return whole[len(self._folder) + 1 :] if whole.startswith(self._folder + "/") else None

    def _names(self, arguments: str) -> list[str]:
        """Return the paths of a call, relative to the folder; none where one is outside of it."""
        names = [self._name(path) for path in re.findall(r'"((?:[^"\\]|\\.)*)"', arguments)]
        inside = [name for name in names if name is not None]
        return inside if len(inside) == len(names) else []

    def _handle(self, arguments: str) -> int | None:
        described = re.match(r"(\d+)<([^>]*)>", arguments)
        if described is None:
            return None
        same = [number for (fd, _), number in self._handles.items() if fd == described[1]]
        exact = self._handles.get((described[1], described[2]))
        return exact or (same[-1] if same and described[2].startswith(self._folder) else None)

    def _see(self, call: str, arguments: str, result: int, line: str) -> None:
        names = self._names(arguments)
        handle = self._handle(arguments)
        match call:
            case "openat" | "open" | "creat" if names:
                self._opened(names[0], arguments, line)
            case "close" if handle:
                self.steps.append(f"close {handle}")
                self._handles = {k: v for k, v in self._handles.items() if v != handle}
            case "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" if handle:
                self._wrote(handle, result)
            case "sendfile" if handle:
                self._wrote(handle, result)
            case "copy_file_range":
                target = re.search(r"(\d+<[^>]*>), (?:NULL|\[\d+\])[^<]*$", arguments)
                if result and target and (handle := self._handle(target[1])):
                    self._wrote(handle, result)
            case "ftruncate" if handle:
                self.steps.append(f"truncate {handle} {arguments.rpartition(', ')[2]}")
            case "rename" | "renameat" | "renameat2" | "link" | "linkat" if names:
                verb = "link" if call.startswith("link") else "rename"
                if len(names) == 2:
                    self.steps.append("\t".join((verb, *names)))
            case "symlink" | "symlinkat" if names := self._names(arguments.rpartition(", ")[2]):
                self.steps.append(f"symlink\t{names[0]}")
            case "unlink" | "unlinkat" | "rmdir" if names:
                verb = "rmdir" if call == "rmdir" or "AT_REMOVEDIR" in arguments else "unlink"
                self.steps.append(f"{verb}\t{names[0]}")
            case "mkdir" | "mkdirat" if names:
                self.steps.append(f"mkdir\t{names[0]}")
            case "chmod" | "fchmodat" if names:
                self.steps.append(f"chmod\t{names[0]}")
            case "fchmod" if handle:
                self.steps.append(f"chmod {handle}")
            case "utimensat" if names:
                self.steps.append(f"utime\t{names[0]}")
            case "utimensat" if handle:
                self.steps.append(f"utime {handle}")

    def _opened(self, name: str, arguments: str, line: str) -> None:
        flags = [word for flag, word in _FLAGS.items() if flag in arguments]
        if "O_DIRECTORY" in arguments or not ("O_WRONLY" in arguments or "O_RDWR" in arguments):
            return
        self._made += 1
        descriptor = re.search(r"= (\d+)<([^>]*)>", line)
        if descriptor is None:
            return
        self._handles[descriptor[1], descriptor[2]] = self._made
        self.steps.append("\t".join((f"open {self._made} {','.join(flags) or '-'}", name)))

    def _wrote(self, handle: int, size: int) -> None:
        """Keep two writes of a row of them: one that begins, and one that is all the rest."""
        before = [step.split() for step in self.steps[-2:]]
        if len(before) == 2 and all(step[:2] == ["write", str(handle)] for step in before):
            self.steps[-1] = f"write {handle} {int(before[1][2]) + size}"
        else:
            self.steps.append(f"write {handle} {size}")

    def ended(self) -> list[str]:
        # An exit closes what is open, and strace shows no call for that.
        return [*self.steps, *(f"close {number}" for number in self._handles.values())]


def record(names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="syncd-saving-") as place, serving() as url:
        scratch = Path(place).resolve()
        for name in names:
            trace = scratch / f"{name}.trace"
            strace = ("strace", "-f", "-y", "-qq", "-s", "4096", "-e", "signal=none",
                      "-e", f"trace={TRACED}", "-o", trace)  # fmt: skip
            bench = make_bench(scratch, name, url, prefix=strace)
            PROGRAMS[name].save(bench)
            recording = Recording(bench.folder)
            recording.read(trace)
            head = [f"# {version(PROGRAMS[name].needs)}"]
            target = RECORDINGS / f"{name}.txt"
            target.write_text("\n".join([*head, *recording.ended(), ""]))
            print(f"{target}: {len(recording.steps)} steps", flush=True)


def version(program: str) -> str:
    said = subprocess.run(
        [program, "-V" if program == "ssh" else "--version"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = (said.stdout or said.stderr).strip().splitlines()
    return lines[0] if said.returncode == 0 and lines else program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="the large programs as well")
    parser.add_argument("--record", action="store_true", help="write the recordings anew")
    parser.add_argument("names", nargs="*", metavar="PROGRAM")
    chosen = parser.parse_args()
    large = chosen.long or chosen.record
    names = chosen.names or [name for name in PROGRAMS if large or name not in LARGE]
    install(names)
    if chosen.record:
        record(names)
        return 0
    report = Report()
    live(names, report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
