"""Reading .npz files that somebody else wrote: sizes and types are checked before allocation.

NumPy allocates what the header of an array claims before it reads the data, so a file of 128
bytes can ask for gigabytes; and object arrays run code when unpickled. Both are refused here.
"""

import errno
import io
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gradhorizon._checks import worded

_MEMBERS = 10_000
_TOTAL = 2 * 2**30  # bytes after decompression
_RATIO = 1000  # decompressed over compressed size of one member
_KINDS = "biufc"
_HEADER = 10_000  # bytes; that of a plain array takes 128
_PIECE = 2**20  # bytes that are inflated at a time


def read_npz(path: Path, *, limit_bytes: int = _TOTAL) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file.

    Parameters
    ----------
    path
        A regular file, not a link to one.
    limit_bytes
        The most bytes that all arrays together may take.

    Returns
    -------
    dict
        Arrays by name.

    Raises
    ------
    ValueError
        If it is not a regular file, not a complete archive, or a member has an unsafe name, an
        object type, or a size that disagrees with its header or exceeds the limit.
    """
    try:
        with os.fdopen(_open(path), "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_directory(members, limit_bytes)
            headers = [_read_header(archive, m) for m in members]  # all, before any array
            return {
                m.filename.removesuffix(".npy"): _read_array(archive, m, h)
                for m, h in zip(members, headers, strict=True)
            }
    except (zipfile.BadZipFile, EOFError, zipfile.LargeZipFile, zlib.error) as error:
        raise ValueError(worded("inputs", "be a complete .npz archive", path)) from error
    except (NotImplementedError, struct.error) as error:  # what zipfile makes of damaged fields
        raise ValueError(worded("inputs", "be a complete .npz archive", path)) from error


def _open(path: Path) -> int:
    """Open a regular file: no link, no pipe, no device, and none put in its place meanwhile."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
            raise ValueError(worded("inputs", "be a regular file", path)) from error
        wanted = "name a file that can be read" if path.exists() else "name an existing file"
        raise ValueError(worded("inputs", wanted, path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(worded("inputs", "be a regular file", path))
    return descriptor


def _check_directory(members: list[zipfile.ZipInfo], limit_bytes: int) -> None:
    """Refuse what the archive's directory already gives away."""
    names = [m.filename for m in members]
    if len(members) > _MEMBERS or len(set(names)) != len(names):
        remedy = "Write it with numpy.savez."
        wanted = f"hold at most {_MEMBERS} arrays, each once"
        raise ValueError(worded("inputs", wanted, f"{len(names)} members", remedy))
    for member in members:
        safe = member.filename.replace("_", "").replace(".", "").replace("-", "").isalnum()
        if not safe or not member.filename.endswith(".npy") or ".." in member.filename:
            raise ValueError(worded("inputs", "hold plainly named arrays", member.filename))
        if member.flag_bits & 1 or member.compress_type not in (0, zipfile.ZIP_DEFLATED):
            raise ValueError(worded("inputs", "be stored or deflated", member.filename))
        if member.file_size > _RATIO * max(member.compress_size, 1):
            raise ValueError(worded("inputs", "not inflate a thousandfold", member.filename))
    total = sum(m.file_size for m in members)
    if total > limit_bytes:
        remedy = "Pass a shorter sequence."
        raise ValueError(worded("inputs", f"take at most {limit_bytes} bytes", total, remedy))


class _Header(NamedTuple):
    """What the header of an array says, after it was compared with the size of the member."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Header:
    """Read the header alone, at most a few kilobytes, and compare its claim with the size."""
    with archive.open(member) as stream:
        start = io.BytesIO(stream.read(_HEADER))
    try:
        version = np.lib.format.read_magic(start)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(start, max_header_size=_HEADER)
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(worded("inputs", "hold NumPy arrays", member.filename)) from error
    if dtype.kind not in _KINDS or dtype.hasobject or dtype.subdtype is not None:
        raise ValueError(worded("inputs", "hold numbers only", f"{member.filename}: {dtype}"))
    claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    held = member.file_size - start.tell()
    if claimed != held or any(size < 0 for size in shape):
        text = f"{member.filename}: {claimed} bytes claimed, {held} held"
        raise ValueError(worded("inputs", "hold what its headers claim", text))
    return _Header(shape, dtype, fortran, start.tell())


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: _Header) -> np.ndarray:
    """Read one array into its own memory; reading to the end checks the CRC."""
    array = np.empty(header.shape, header.dtype, order="F" if header.fortran else "C")
    content = array.reshape(-1, order="A").view(np.uint8)
    with archive.open(member) as stream:
        stream.read(header.start)
        done = 0
        while done < content.size:
            piece = stream.read(min(_PIECE, content.size - done))
            if not piece:
                raise EOFError
            content[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        if stream.read(1):
            raise EOFError
    return array
