"""Where the time of a pass goes: who holds the GIL, SQL statements and system calls a file.

    python -m tests.benchmarks.layers [--files N] [--tree DIR] [--seconds S]

Three passes over small files, each watched in one way: py-spy samples the thread that holds the
GIL, a trace callback counts SQL statements, strace counts system calls. What is not there is left
out. SECONDS is what the sink takes for each answer.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from pathlib import Path

from tests.benchmarks.files import Files
from tests.benchmarks.measure import SkippedError
from tests.benchmarks.ours import Syncd
from tests.benchmarks.peers import cache, found
from tests.benchmarks.service import serving

ROOT = Path(__file__).parent.parent.parent
#: Counts the statements of every connection of a process, by their first word and table.
COUNTER = """
import atexit, collections, json, os, re, sqlite3
_counts = collections.Counter()
_connect = sqlite3.connect
_table = re.compile(r"(?:FROM|INTO|UPDATE|TABLE)\\s+(\\w+)", re.I)

def _note(statement):
    found = _table.search(statement)
    _counts[statement.split(None, 1)[0].upper() + " " + (found[1] if found else "")] += 1

def connect(*args, **kwargs):
    made = _connect(*args, **kwargs)
    made.set_trace_callback(_note)
    return made

sqlite3.connect = connect
atexit.register(lambda: open(os.environ["SQL_COUNTS"], "w").write(json.dumps(_counts)))
"""
#: A layer, by the file of the innermost frame of syncd.
LAYER = re.compile(r"syncd/(\w+(?:/\w+)?)\.py")


def statements(syncd, place):
    """Return how often each kind of SQL statement ran."""
    hook = place / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(COUNTER)
    syncd.anew()
    env = syncd.env | {"SQL_COUNTS": str(place / "sql.json")}
    env["PYTHONPATH"] += f":{hook}"
    subprocess.run(syncd.words("once"), env=env, cwd=place, check=True)
    return Counter(json.loads((place / "sql.json").read_text()))


def calls(syncd, place):
    """Return how often each system call was made."""
    if not found("strace"):
        raise SkippedError("strace is missing")
    out = place / "calls"
    syncd.anew().run("once", under=("strace", "-f", "-c", "-o", out))
    rows = [line.split() for line in out.read_text().splitlines()]
    rows = [row for row in rows if len(row) > 4 and row[3].isdigit() and row[-1] != "total"]
    return Counter({row[-1]: int(row[3]) for row in rows})


def holders(syncd, place):
    """Return how many samples of the GIL each layer of syncd held."""
    spy = cache() / "py-spy"
    if not (spy / "bin" / "py-spy").exists():
        venv.create(spy, with_pip=True)
        subprocess.run([spy / "bin" / "pip", "install", "-q", "py-spy"], check=True)
    out = place / "gil"
    command = [spy / "bin" / "py-spy", "record", "--gil", "-r", "200", "-f", "raw", "-o", out, "--"]
    subprocess.run([*command, *syncd.anew().words("once")], env=syncd.env, cwd=place,
                   check=True, capture_output=True)  # fmt: skip
    layers = Counter()
    for line in out.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = ["imports"] if "<frozen importlib" in stack else LAYER.findall(stack)
        # Without a stack, nobody held it.
        if stack:
            layers[frames[-1] if frames else "elsewhere"] += int(samples)
    return layers


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--seconds", type=float, default=0.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="syncd-profile-") as name:
        place = Path(name)
        files = Files(place, options.files, 4096)
        with serving(place, seconds=options.seconds) as service:
            tree = options.tree.resolve()
            syncd = Syncd(tree, place, files.folder, service, upload__method="direct")
            for what, watch in (("SQL statements", statements), ("system calls", calls)):
                shown(what, watch(syncd, place), options.files)
            shown("samples with the GIL", holders(syncd, place), None)


def shown(what, counts, files):
    """Print the largest counts, a file where `files` are given, else as parts of all."""
    unit, part = ("a file", files) if files else ("%", counts.total() / 100)
    print(f"{what}: {counts.total() / part:.1f} {unit}")
    for name, count in counts.most_common(12):
        print(f"  {count / part:8.2f} {name}")


if __name__ == "__main__":
    sys.exit(main())
