"""One table of filesystems: every part of syncd judges a type alike."""

import pytest

from syncd.filesystems import traits


@pytest.mark.parametrize(
    ("kind", "is_network", "is_polled", "has_own_clock", "evidence"),
    [
        ("ext4", False, False, True, ("fsid", "birth")),
        ("some new one", False, False, True, ("uuid", "birth")),
        ("vfat", False, False, False, ("volume",)),
        ("overlay", False, True, True, ("source",)),
        ("9p", False, True, False, ("source",)),
        ("fuse.bindfs", False, True, False, ("source",)),
        ("fuse.sshfs", True, True, False, ("source",)),
        ("lustre", True, True, False, ("source",)),
        ("nfs4", True, True, False, ("source",)),
    ],
)
def test_a_type_has_its_traits(kind, is_network, is_polled, has_own_clock, evidence):
    found = traits(kind)
    assert (found.is_network, bool(found.hidden_changes)) == (is_network, is_polled)
    assert (found.has_own_clock, found.evidence) == (has_own_clock, evidence)
