"""The state of each part of a folder: its root, and each directory that is a mount point."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from syncd import identity
from syncd.identity import RootIdentity, View
from syncd.state.observations import Observation, Seen


class RootState(enum.StrEnum):
    """How a part of a folder compares with what the table knows about it."""

    #: the right one, or one about which nothing is known yet
    OK = "ok"
    #: another one that has most of the known files: only absences in it are not believed
    ALIKE = "alike"
    #: another one, or the right one as it was earlier
    REPLACED = "replaced"
    #: not there, not a directory, or not listable
    MISSING = "missing"

    @property
    def is_seen(self) -> bool:
        """Whether the files in it are recorded and sent."""
        return self in (RootState.OK, RootState.ALIKE)


@dataclass(frozen=True, slots=True)
class Standing:
    """The states of a folder's parts at one look."""

    view: View
    states: Mapping[bytes, RootState]

    @property
    def state(self) -> RootState:
        """The state of the root."""
        return self.states[b""]

    @property
    def alike(self) -> dict[bytes, RootIdentity | None]:
        """The identity now in the place of each part that is only alike."""
        alike = (part for part, state in self.states.items() if state is RootState.ALIKE)
        return {part: self.view.parts[part] for part in alike}

    @property
    def stopped(self) -> list[bytes]:
        """The parts that must not be looked at."""
        return [part for part, state in self.states.items() if not state.is_seen]

    def believes(self, observation: Observation) -> bool:
        """Return whether an observation counts, by the part that contains its path."""
        # Rules do not depend on the disk: an excluded file is released, mounted or not.
        if observation.by_rule:
            return True
        states = {self.state, self.states[identity.part_of(self.states, observation.path)]}
        if observation.seen is Seen.MISSING:
            return states == {RootState.OK}
        return all(state.is_seen for state in states)
