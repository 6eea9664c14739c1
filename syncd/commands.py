"""What a person tells syncd to do: done by the daemon where one runs, else by the command itself.

Each takes the parts and its arguments as JSON has them, and yields JSON objects: first how far it
is, if it takes long, and at the end its result.
"""

from collections.abc import Callable, Iterator
from typing import Any

from syncd.parts import Parts

JsonObject = dict[str, Any]
#: The socket in the state directory on which a running daemon takes commands.
SOCKET_NAME = "control.sock"
Command = Callable[[Parts, JsonObject], Iterator[JsonObject]]

#: By the name under which the command line and the control socket know them.
COMMANDS: dict[str, Command] = {}
