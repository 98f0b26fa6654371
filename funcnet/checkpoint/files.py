"""Files and folders that survive a crash: written to the disk, renamed whole, deleted unseen."""

import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from funcnet.checkpoint.failures import DamagedError

LOG = logging.getLogger("funcnet.checkpoint")

STEP = re.compile("step-([0-9]{12})")
HIDDEN = re.compile(r"\.(saving|replaced|deleted)-([0-9]{12})-[0-9a-f]{8}")
"""Names of our own that no reader looks at."""


def step_name(step: int) -> str:
    """The folder of a step."""
    return f"step-{step:012d}"


def hidden_name(word: str, step: int) -> str:
    """A name for what is not there yet, or not any more."""
    return f".{word}-{step:012d}-{secrets.token_hex(4)}"


def as_directory(function: str, directory: Any) -> Path:
    """The directory that is given.

    Raises:
        TypeError, ValueError: it is no path, or one of another machine.
    """
    if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
        raise TypeError(
            f"`{function}`: directory must be a path, got {directory!r}. Say `'runs/first'`."
        )
    if "://" in os.fspath(directory):
        raise ValueError(
            f"`{function}`: directory must be a folder of this machine, got {directory!r}. "
            "Mount what is elsewhere."
        )
    return Path(directory)


def sync(path: Path) -> None:
    """Has a file, or the names in a folder, written to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; what was written takes its name at the end, or leaves nothing behind."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        yield draft
        sync(draft)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def open_plain(path: Path) -> BufferedReader:
    """Opens a file for reading that is a plain file, not a link, a pipe or a device."""
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise DamagedError(f"{path.name} is no plain file")
    return os.fdopen(opened, "rb")


def read_bounded(path: Path, at_most: int) -> bytes:
    """The bytes of a plain file, if there are not too many."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > at_most:
            raise DamagedError(f"{path.name} has {size} bytes, more than {at_most}")
        return file.read(size)


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(directory: Path, at_most: int) -> dict[str, int]:
    """The size of every file below a folder, by name; no link is followed.

    Raises:
        DamagedError: something there is neither a file nor a folder, or there are too many.
    """
    found: dict[str, int] = {}
    for seen, (folder, entry) in enumerate(entries(directory)):
        mode, name = entry.stat(follow_symlinks=False), f"{folder}{entry.name}"
        if stat.S_ISREG(mode.st_mode):
            found[name] = mode.st_size
        elif not stat.S_ISDIR(mode.st_mode):
            raise DamagedError(f"{name} is neither a file nor a folder")
        if seen >= at_most:
            raise DamagedError(f"it holds more than {at_most} files and folders")
    return found


def entries(directory: Path, below: str = "") -> Iterator[tuple[str, Any]]:
    """All that lies below a folder, one at a time, each with the name of where it lies."""
    with os.scandir(directory) as found:
        for entry in found:
            yield below, entry
            if entry.is_dir(follow_symlinks=False) and below.count("/") < 4:
                yield from entries(Path(entry.path), f"{below}{entry.name}/")


def seal(directory: Path) -> dict[str, tuple[int, str]]:
    """Size and digest of every file below a folder, once all of it has reached the disk."""
    sizes = contents(directory, at_most=2**31)
    folders = {directory} | {directory / parent for name in sizes for parent in Path(name).parents}
    for path in (*(directory / name for name in sizes), *sorted(folders, reverse=True)):
        sync(path)
    return {name: (size, digest(directory / name)) for name, size in sizes.items()}


def discard(directory: Path, step: int) -> None:
    """Deletes the folder of a step, which nobody sees half deleted."""
    hidden = directory.parent / hidden_name("deleted", step)
    os.rename(directory, hidden)
    shutil.rmtree(hidden)


def clean(directory: Path) -> None:
    """Takes away what a crash has left behind, and puts back a step that was being replaced."""
    for path in sorted(directory.iterdir()):
        match = HIDDEN.fullmatch(path.name)
        if not match or path.is_symlink() or not path.is_dir():
            continue
        step = directory / step_name(int(match[2]))
        if match[1] == "replaced" and not step.exists():
            os.rename(path, step)
            sync(directory)
        else:
            shutil.rmtree(path)


def steps_in(directory: Path) -> list[int]:
    """The numbers of the steps whose folders are there, newest first."""
    if not directory.is_dir():
        return []
    found = [STEP.fullmatch(path.name) for path in directory.iterdir()]
    return sorted((int(match[1]) for match in found if match), reverse=True)


def lock(directory: Path) -> IO[bytes] | None:
    """A lock on a directory, held until it is closed or the process ends; None if it is taken."""
    file = open(directory / ".lock", "ab")  # noqa: SIM115 - the lock lasts as long as the file
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # no such locks on this platform
        pass
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # the file system has no locks
        LOG.warning("%s can't be locked: see that one run at a time saves there", directory)
    return file


def put(draft: Path, final: Path, step: int) -> None:
    """Gives a sealed draft its name, in place of what had it."""
    replaced = final.parent / hidden_name("replaced", step)
    if not final.exists():
        os.rename(draft, final)
        sync(final.parent)
        return
    os.rename(final, replaced)
    try:
        os.rename(draft, final)
    except OSError:
        os.rename(replaced, final)
        raise
    sync(final.parent)
    shutil.rmtree(replaced)
