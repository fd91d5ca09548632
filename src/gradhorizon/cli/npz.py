"""Reading .npz files that somebody else wrote: sizes and types are checked before allocation.

NumPy allocates what the header of an array claims before it reads the data, so a file of 128
bytes can ask for gigabytes; and object arrays run code when unpickled. Both are refused here.
"""

import io
import stat
import zipfile
from pathlib import Path

import numpy as np

from gradhorizon._checks import worded

_MEMBERS = 10_000
_TOTAL = 2 * 2**30  # bytes after decompression
_RATIO = 1000  # decompressed over compressed size of one member
_KINDS = "biufc"


def read_npz(path: Path, *, limit_bytes: int = _TOTAL) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file.

    Parameters
    ----------
    path
        A regular file.
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
        mode = path.lstat().st_mode
    except OSError as error:
        raise ValueError(worded("inputs", "name an existing file", path)) from error
    if not stat.S_ISREG(mode):
        raise ValueError(worded("inputs", "be a regular file", path))
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_directory(members, limit_bytes)
            return {m.filename.removesuffix(".npy"): _read_member(archive, m) for m in members}
    except (zipfile.BadZipFile, EOFError, zipfile.LargeZipFile) as error:
        raise ValueError(worded("inputs", "be a complete .npz archive", path)) from error


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


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read one array after checking its header against its size; reading checks its CRC."""
    data = archive.read(member)
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
    except ValueError as error:
        raise ValueError(worded("inputs", "hold NumPy arrays", member.filename)) from error
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise ValueError(worded("inputs", "hold numbers only", f"{member.filename}: {dtype}"))
    claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    held = len(data) - stream.tell()
    if claimed != held:
        text = f"{member.filename}: {claimed} bytes claimed, {held} held"
        raise ValueError(worded("inputs", "hold what its headers claim", text))
    stream.seek(0)
    return np.load(stream, allow_pickle=False)
