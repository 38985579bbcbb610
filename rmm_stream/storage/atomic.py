"""Replace a file as a whole: write aside in the same directory, make it durable, rename.

A reader never sees half a file. Knows nothing of what is in the file.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path: str | os.PathLike, new: bool = False) -> Iterator[Path]:
    """Yields the path of a file to create and close; it takes the place of `path` when the block ends.

    new: there must be no such file yet, also not at the end; else FileExistsError, and that file stands.
    After an exception, from the block or from the disk, the old file stands as it was and nothing is left beside it.
    A symbolic link stays a link: the file that it points to is replaced.
    Raises OSError (no such directory, disk full, not allowed).
    """
    target = Path(os.path.realpath(path))
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")  # two writers never share it
    try:
        yield aside
        _sync(aside)
        if new:
            os.link(aside, target)  # unlike a rename, it never replaces
            aside.unlink()
        else:
            os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync(target.parent)  # without it, a power cut may bring the old name back


def _sync(path: Path) -> None:
    """fsync of a file or a directory; it reaches the disk whoever wrote it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
