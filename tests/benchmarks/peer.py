"""The program that a user would write instead: the official client in a pool of threads.

`python peer.py BASE_URL FOLDER THREADS` uploads each file of FOLDER once. The runner gives it the
official client, in an environment of its own.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aymara_ai import AymaraAI

base_url, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
client = AymaraAI(api_key="benchmark", base_url=base_url, max_retries=0)


def upload(path):
    return client.files.upload(file=(path.name, path.read_bytes())).file_uuid


with ThreadPoolExecutor(threads) as pool:
    uuids = list(pool.map(upload, folder.iterdir()))
sys.stdout.write(f"{len(set(uuids))}\n")
