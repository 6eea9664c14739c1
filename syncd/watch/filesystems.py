"""On which filesystems inotify tells of every change, and on which it cannot."""

from syncd.mounts import kind_of, mounts

#: Where changes are made behind the back of this kernel, or of the layer that is watched.
_DEAF = {
    "nfs": "a network filesystem",
    "nfs4": "a network filesystem",
    "cifs": "a network filesystem",
    "smb3": "a network filesystem",
    "9p": "shared by a virtual machine's host",
    "virtiofs": "shared by a virtual machine's host",
    "vboxsf": "shared by a virtual machine's host",
    "ceph": "a network filesystem",
    "afs": "a network filesystem",
    "glusterfs": "a network filesystem",
    "lustre": "a network filesystem",
    "overlay": "an overlay, whose lower layers change unseen",
    "aufs": "an overlay, whose lower layers change unseen",
}


def why_polling(path: bytes) -> str:
    """Return why the directory `path` must be polled; empty where events tell of every change."""
    return why_deaf(kind_of(path))


def why_deaf(kind: str) -> str:
    """Return why a filesystem of type `kind` must be polled; empty where it need not be."""
    if kind.startswith("fuse"):
        return f"{kind}: changes made behind FUSE give no events"
    return f"{kind}: {_DEAF[kind]}" if kind in _DEAF else ""


def deaf_mounts(root: bytes) -> list[bytes]:
    """Return where beneath the directory `root` something is mounted that must be polled."""
    prefix = root.rstrip(b"/") + b"/"
    return [
        mount.path[len(prefix) :]
        for mount in mounts()
        if mount.path.startswith(prefix) and why_deaf(mount.kind)
    ]
