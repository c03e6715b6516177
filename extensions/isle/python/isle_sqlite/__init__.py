"""isle: ordinary SQLite files that sync.

`load(connection)` gives a connection of `sqlite3` or `apsw` the functions and tables of isle.
"""

import sys
from pathlib import Path
from typing import Any

__all__ = ["load", "path"]


def path() -> str:
    """Where the extension is."""
    suffix = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
    return str(Path(__file__).with_name("isle" + suffix))


def load(connection: Any) -> None:
    """Loads isle into a connection of `sqlite3` or `apsw`. Others cannot be loaded by SQL afterwards."""
    if not hasattr(connection, "enable_load_extension"):
        raise RuntimeError(
            "this Python's sqlite3 was built without extensions: use another Python (Debian's has them), or `pip install apsw`"
        )
    connection.enable_load_extension(True)
    try:
        connection.load_extension(path())
    finally:
        connection.enable_load_extension(False)
