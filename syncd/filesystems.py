"""The types of filesystems, and how far each can be trusted: one table for everything. A leaf."""

from collections.abc import Mapping
from typing import NamedTuple


class Traits(NamedTuple):
    """The traits of one type; the defaults are those of a local disk."""

    #: why changes happen without an event, for a person; empty when inotify reports all of them
    hidden_changes: str = ""
    #: whether another machine or a program serves it, so that it may hang and has its own clock
    is_served: bool = False
    #: whether it is shared over a network, where SQLite's locks and shared memory are unreliable
    is_network: bool = False
    #: whether it is stacked on others, as a container's own layer is
    is_layered: bool = False
    #: whether it makes up inodes with each mount, and keeps no time of its own for a change
    invents_inodes: bool = False
    #: whether the inode of a root may differ after a remount
    renumbers_roots: bool = False
    #: whether a name in any case finds a file, which is listed by one name only
    folds_case: bool = False
    #: what tells its roots apart, all of it together; see `identity`
    evidence: tuple[str, ...] = ("uuid", "birth")

    @property
    def has_own_clock(self) -> bool:
        """Whether the times of files are this machine's, and real."""
        return not (self.is_served or self.invents_inodes)


LOCAL = Traits()
_FSID = Traits(evidence=("fsid", "birth"))
_FAT = Traits(invents_inodes=True, renumbers_roots=True, folds_case=True, evidence=("volume",))
# Directories of an overlay are born anew when they are first written to.
_LAYERED = Traits(
    hidden_changes="an overlay, whose lower layers change unseen",
    is_layered=True,
    evidence=("source",),
)
_SHARE = Traits(
    hidden_changes="shared by a virtual machine's host", is_served=True, evidence=("source",)
)
_NETWORK = _SHARE._replace(hidden_changes="a network filesystem", is_network=True)
_SMB = _NETWORK._replace(renumbers_roots=True, folds_case=True)
_FUSE = _SHARE._replace(
    hidden_changes="changes made behind FUSE give no events",
    invents_inodes=True,
    renumbers_roots=True,
)

#: By the type as /proc names it; an unlisted type is a local disk, or FUSE if its name says so.
_TRAITS: Mapping[str, Traits] = {
    **dict.fromkeys(("ext2", "ext3", "ext4", "btrfs", "zfs"), _FSID),
    "xfs": Traits(evidence=("xfs_uuid", "birth")),
    "hfsplus": Traits(folds_case=True),
    "ntfs3": Traits(folds_case=True),
    "vfat": _FAT,
    "msdos": _FAT,
    "exfat": _FAT._replace(evidence=("uuid",)),
    "overlay": _LAYERED,
    "aufs": _LAYERED._replace(evidence=LOCAL.evidence),
    **dict.fromkeys(("9p", "virtiofs", "vboxsf"), _SHARE),
    **dict.fromkeys(("nfs", "nfs4", "ceph", "afs", "glusterfs", "lustre"), _NETWORK),
    "cifs": _SMB,
    "smb3": _SMB,
    "fuseblk": _FUSE._replace(folds_case=True),
    "fuse.sshfs": _FUSE._replace(is_network=True),
}


def traits(kind: str) -> Traits:
    """Return the traits of filesystems of type `kind`."""
    return _TRAITS.get(kind) or (_FUSE if kind.startswith("fuse") else LOCAL)
