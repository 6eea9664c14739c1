#!/usr/bin/env bash
# Watching, on real filesystems and at real limits: tmpfs, ext4, an overlay, sshfs and exFAT under one
# daemon; an overflow of 20,000 files; too few watches; too few open files. Root; about 90 seconds.
# row: 7, 8, 50, 51
if [[ -z ${SYNCD_RIG_PRIVATE:-} ]]; then
  # Mounts of its own: whatever is left mounted ends with the rig.
  exec env SYNCD_RIG_PRIVATE=yes unshare --mount --propagation private bash "$0" "$@"
fi
source "$(dirname "$0")/lib.sh"
leave() { rm -rf --one-file-system "$scratch"; }
trap leave EXIT

make_venv() { "${PYTHON:-python3}" -m venv "$1" && "$1/bin/python" -m pip install -q "$root[test]"; }
cached "watch-$wanted" make_venv
cd "$root" || exit
PYTHONPATH=$root "$cache/watch-$wanted/bin/python" tests/rigs/real_watching.py "$scratch"
