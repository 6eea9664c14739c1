"""The peers: found on this machine, or installed; and each as a command that is run."""

import functools
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.benchmarks.measure import SkippedError
from tests.benchmarks.process import environment, run

HERE = Path(__file__).parent
OFFICIAL = "aymara-ai-sdk==1.2.1"
#: The packages that it needs to upload; it asks for notebooks, too.
NEEDS = ("httpx<1", "pydantic", "distro", "anyio", "sniffio", "typing-extensions")
THREADS = (1, 2, 4, 8, 16, 32)
#: Debian's package of a program where it has another name.
PACKAGES = {"aws": "awscli"}
#: The part of the files with which the best number of threads is looked for.
TRIAL_PART = 5


def cache():
    """Return where what is installed is kept from run to run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "syncd-benchmarks"


@functools.cache
def found(program):
    """Return a program's path, None where it is missing; root installs it."""
    if not shutil.which(program) and os.geteuid() == 0 and shutil.which("apt-get"):
        package = PACKAGES.get(program, program)
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "--yes", "--no-install-recommends", package]
        for words in (["apt-get", "update"], command):
            subprocess.run(words, env=env, capture_output=True, check=False)
    return shutil.which(program)


def needed(program):
    """Return a program's path; raise SkippedError where it cannot be had."""
    path = found(program)
    if path is None:
        raise SkippedError(
            f"{program} is missing (apt-get install {PACKAGES.get(program, program)})"
        )
    return path


@functools.cache
def official_python():
    """Return an interpreter that has the official client, and not what it asks for besides."""
    place = cache() / "official-1.2.1"
    python = place / "bin" / "python"
    if not (place / "made").exists():
        try:
            venv.create(place, with_pip=True, clear=True)
            pip = [python, "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, "--no-deps", OFFICIAL], check=True, capture_output=True)
            subprocess.run([*pip, *NEEDS], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SkippedError(f"the official client cannot be installed: {error}") from error
        (place / "made").touch()
    return python


class OfficialClient:
    """The official client in a pool of threads, as many as are best for it here."""

    def __init__(self, service, files):
        self._service, self._files = service, files
        self._threads = None

    def _run(self, folder, threads):
        self._service.forget()
        trust = self._service.certificate
        env = environment(**({"SSL_CERT_FILE": str(trust)} if trust else {}))
        command = [official_python(), HERE / "peer.py", self._service.url, folder, threads]
        return run(command, env, cwd=self._files.place)

    def __call__(self):
        if self._threads is None:
            trial = self._files.part(max(len(self._files.digests) // TRIAL_PART, 50))
            walls = {threads: self._run(trial, threads).wall for threads in THREADS}
            self._threads = min(walls, key=walls.get)
        usage = self._run(self._files.folder, self._threads)
        self._service.expect(self._files.digests.values(), "official client")
        return self._files.figures(usage) | {
            "said": f"the official client is at its best with {self._threads} threads"
        }


def rclone_to_s3(service, files):
    """Return a run of `rclone copy` to the sink's S3."""

    def copy():
        program = needed("rclone")
        service.forget()
        remote = f":s3,provider=Other,access_key_id=k,secret_access_key=s,endpoint='{service.url}':"
        usage = run(
            [program, "copy", files.folder, f"{remote}bucket", "--config", "/dev/null",
             "--transfers", "16", "--s3-no-head", "--s3-no-check-bucket", "--retries", "1"],
            cwd=files.place,
        )  # fmt: skip
        if sum(o["size"] for o in service.objects()) != files.total:
            raise SkippedError("rclone did not send each byte once")
        return files.figures(usage)

    return copy


def aws_to_s3(service, files):
    """Return a run of `aws s3 sync` to the sink's S3."""

    def sync():
        program = needed("aws")
        service.forget()
        env = environment(
            AWS_ACCESS_KEY_ID="k",
            AWS_SECRET_ACCESS_KEY="s",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_REQUEST_CHECKSUM_CALCULATION="when_required",
            AWS_EC2_METADATA_DISABLED="true",
        )
        words = ["s3", "sync", files.folder, "s3://bucket", "--endpoint-url", service.url]
        usage = run([program, *words, "--only-show-errors"], env, cwd=files.place)
        if sum(o["size"] for o in service.objects()) != files.total:
            raise SkippedError("aws did not send each byte once")
        return files.figures(usage)

    return sync


def hashing(files):
    """Return a run of SHA-256 over the files, each read once."""

    def digest():
        code = (
            "import hashlib, pathlib, sys\n"
            "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
            "    hashlib.file_digest(path.open('rb'), 'sha256')"
        )
        return files.figures(run([sys.executable, "-c", code, files.folder], cwd=files.place))

    return digest
