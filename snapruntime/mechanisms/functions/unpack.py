"""Code on its way in: a zip file or a local folder becomes files of our own, and nothing in it is taken on trust.

What is made has the modes that a function needs and no others: 755 for folders and for what may be executed, 644 for
the rest. Links are kept where they stay inside. Sizes are counted as bytes come, since a zip file's own may lie.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import IO

from snapruntime.values.errors import UsageError
from snapruntime.values.function import FOLDER_LIMIT, UNZIPPED_LIMIT, ZIP_LIMIT
from snapruntime.values.service_errors import InvalidParameterValueException, RequestEntityTooLargeException

#: Files, folders and links in one function's code, at most; and how deep folders may be nested.
MAX_ENTRIES = 100_000
MAX_DEPTH = 64

#: What is beside the code in a folder, and no part of it: it changes by itself, or is another's. A virtual environment
#: (a folder with pyvenv.cfg) is none either: `--python` names one.
LEFT_OUT = frozenset({"__pycache__", ".git", ".hg", ".svn", ".mypy_cache", ".pytest_cache", ".ruff_cache"})

_BLOCK = 1 << 20
#: Those that zipfile unpacks piece by piece: a block of another kind becomes as large as it likes, in memory.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: What an entry in a zip file's directory begins with.
_ENTRY = b"PK\x01\x02"
#: PATH_MAX of linux/limits.h.
_LONGEST_PATH = 4096


def unpack_zip(content: bytes, into: Path) -> None:
    """Unpack a zip file's bytes into an empty folder.

    Raises:
        RequestEntityTooLargeException: the zip file is too large.
        InvalidParameterValueException: it is no zip file, is too large unpacked, or has what cannot be unpacked safely.
        OSError: the disk does not take it.
    """
    if len(content) > ZIP_LIMIT:
        raise RequestEntityTooLargeException(f"Zipped size must be smaller than {ZIP_LIMIT} bytes")
    # Before they are read: a million of them take half a gigabyte of memory.
    if (entries := content.count(_ENTRY)) > MAX_ENTRIES:
        raise _unsafe(f"it has {entries} entries; {MAX_ENTRIES} are allowed")
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            _unpack(archive, into)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        # NotImplementedError: a compression that this Python does not know. RuntimeError: a password is needed.
        raise InvalidParameterValueException(
            "Could not unzip uploaded file. Please check your file, then try to upload again.", hint=f"({error})"
        ) from error
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ):
            raise _unsafe(f"{error.strerror}: {os.path.relpath(str(error.filename), into)}") from error
        raise


def _unpack(archive: zipfile.ZipFile, into: Path) -> None:
    left, count = UNZIPPED_LIMIT, 0
    links: list[tuple[Path, str]] = []
    for entry in archive.infolist():
        if entry.compress_type not in _COMPRESSIONS:
            raise _unsafe(f"{entry.filename} is compressed in another way than by deflate")
        path = _inside(into, entry.filename)
        mode = entry.external_attr >> 16  # As Unix made it; 0 where another system did.
        kind = stat.S_IFMT(mode)
        is_folder = entry.is_dir() or kind == stat.S_IFDIR
        count += _make_folder(path if is_folder else path.parent) + (not is_folder)
        if count > MAX_ENTRIES:
            raise _unsafe(f"it has more than {MAX_ENTRIES} files and folders, with those that only paths name")
        if is_folder:
            continue
        if kind not in (0, stat.S_IFREG, stat.S_IFLNK):
            raise _unsafe(f"{entry.filename} is neither file, folder nor link")
        with archive.open(entry) as source:
            if kind == stat.S_IFLNK:
                links.append((path, _target(source.read(_LONGEST_PATH), entry.filename)))
                continue
            left = _write(source, path, left)
        path.chmod(0o755 if mode & 0o111 else 0o644)
    # Last, so that no file can be written through one.
    for path, target in links:
        _link(into, path, target)


def _inside(root: Path, name: str) -> Path:
    """Where an entry goes. What says that it is elsewhere is refused, not bent until it fits; `./x` is x."""
    parts = [part for part in name.rstrip("/").split("/") if part != "."]
    if "\\" in name or "\0" in name or any(part in ("", "..") for part in parts):
        raise _unsafe(f"the name {name!r} leads elsewhere")
    if len(parts) > MAX_DEPTH:
        raise _unsafe(f"folders are nested more than {MAX_DEPTH} deep")
    return root.joinpath(*parts)


def _make_folder(path: Path) -> int:
    """Make a folder, and those above it that are not there; returns how many were made: one name may ask for many."""
    try:
        path.mkdir(mode=0o755)
    except FileNotFoundError:
        return _make_folder(path.parent) + _make_folder(path)
    except FileExistsError:
        if not path.is_dir():
            raise
        return 0
    return 1


def _write(source: IO[bytes], path: Path, left: int) -> int:
    """Copy a file; returns how many bytes the others may still have."""
    with open(path, "xb") as file:
        while block := source.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise InvalidParameterValueException(f"Unzipped size must be smaller than {UNZIPPED_LIMIT} bytes")
            file.write(block)
    return left


def _target(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _unsafe(f"{name} is a link to what is not UTF-8") from None


def _link(root: Path, path: Path, target: str) -> None:
    if not _stays_inside(root, path, target):
        raise _unsafe(f"{path.relative_to(root)} is a link to {target!r}, which is outside")
    path.symlink_to(target)


def _stays_inside(root: Path, path: Path, target: str) -> bool:
    """Whether a link leads to a place below `root`. By its words alone: what is there may be a link itself, which is
    judged for itself, and a `..` behind a link is refused, since the kernel would take it from where that one leads."""
    if not target or os.path.isabs(target):
        return False
    parts = target.split("/")
    ups = [number for number, part in enumerate(parts) if part == ".."]
    return ups == list(range(len(ups))) and len(ups) < len(path.relative_to(root).parts)


def _unsafe(what: str) -> InvalidParameterValueException:
    return InvalidParameterValueException(f"The zip file cannot be unpacked safely: {what}.")


def copy_folder(folder: Path, into: Path) -> None:
    """Copy the code in a local folder into an empty one.

    By descriptors: who may write to the folder and puts a link in the place of something meanwhile, has nothing copied
    from elsewhere.

    Raises:
        UsageError: it cannot be read, or has what cannot be code: a link that leads out, a device, too much of it.
        OSError: the disk does not take it.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.")
    left, count = FOLDER_LIMIT, 0
    for parent, names, files, fd in os.fwalk(folder, onerror=_unreadable):
        relative = Path(parent).relative_to(folder)
        if len(relative.parts) >= MAX_DEPTH:
            raise UsageError(f"Folders are nested more than {MAX_DEPTH} deep in {folder}.")
        names[:] = [name for name in names if not _is_left_out(name, fd)]
        for name in sorted([*names, *files]):
            if name in LEFT_OUT:
                continue
            count += 1
            if count > MAX_ENTRIES:
                raise UsageError(
                    f"There are more than {MAX_ENTRIES} files in {folder}.",
                    hint="Put the handler and what it needs in a folder of its own.",
                )
            left -= _copy(fd, Path(parent, name), into / relative / name, into)
            if left < 0:
                raise UsageError(f"There are more than {FOLDER_LIMIT >> 30} GB in {folder}.")


def _unreadable(error: OSError) -> None:
    raise UsageError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _is_left_out(name: str, fd: int) -> bool:
    if name in LEFT_OUT:
        return True
    try:
        os.stat(f"{name}/pyvenv.cfg", dir_fd=fd)
    except OSError:
        return False
    return True


def _copy(fd: int, source: Path, path: Path, root: Path) -> int:
    """Copy one thing, whatever it is; returns its size.

    Args:
        fd: the folder that it is in.
        source: its name, for errors.
    """
    name = source.name
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            path.mkdir(mode=0o755)
            return 0
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=fd)
            if not _stays_inside(root, path, target):
                raise UsageError(
                    f"{source} is a link to {target}, which is outside of the function's folder: what it leads to "
                    "would not be part of the version.",
                    hint="Put the file itself there. What lies elsewhere on this host, --ro shows.",
                )
            path.symlink_to(target)
            return 0
        _check_regular(status, source)
        # Without waiting for a writer, where a pipe has taken its place.
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except OSError as error:
        if error.filename == name:
            _unreadable(OSError(error.errno, error.strerror, str(source)))
        raise
    with open(opened, "rb") as file:
        status = os.fstat(opened)
        _check_regular(status, source)
        if status.st_size > FOLDER_LIMIT:
            return status.st_size
        with open(path, "xb") as copy:
            shutil.copyfileobj(file, copy, _BLOCK)
            os.fchmod(copy.fileno(), 0o755 if status.st_mode & 0o111 else 0o644)
    return status.st_size


def _check_regular(status: os.stat_result, source: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{source} is neither file, folder nor link, and cannot be part of a function's code.")
