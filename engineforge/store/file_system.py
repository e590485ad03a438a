"""Which file system a store is on, and what it can be trusted with: its locks, and its renames."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_MOUNTS = Path("/proc/self/mountinfo")

# Of one kernel: flock excludes, and rename(2) replaces no folder that holds something.
_LOCAL = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs"),
        *("nilfs2", "tmpfs", "ramfs", "overlay", "apfs", "hfsplus", "ufs"),
    }
)
# Of several hosts: renames hold, locks may be each host's own (mount options, caches).
_SHARED = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "beegfs", "ocfs2"),
        *("gfs2", "afs", "9p", "virtiofs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse"),
    }
)


@dataclass(frozen=True, slots=True)
class FileSystem:
    """`kind` as the kernel calls it; `note` says what to beware of, and is empty for nothing.

    Locks that are `advisory` save work where they hold, and may not hold between hosts.
    """

    kind: str
    locks: Literal["reliable", "advisory"]
    note: str = ""


def file_system(root: Path, mounts: str | None = None) -> FileSystem:
    """That of a folder that exists. `mounts` is in the format of `/proc/self/mountinfo` (proc(5)),
    which is read where it is None."""
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            mounts = ""
    kind = _kind(root, mounts)
    if kind in _LOCAL:
        return FileSystem(kind, "reliable")
    if kind in _SHARED:
        return FileSystem(kind, "advisory")
    what = f"on '{kind}'" if kind != "unknown" else "on a file system of a kind that is not told"
    return FileSystem(
        kind,
        "advisory",
        f"the cache '{root}' is {what}, which is not known to lock files, or to rename folders "
        "without replacing others: processes at once may build a key twice, and `engineforge gc` "
        "is to run while nothing builds",
    )


def _kind(root: Path, mounts: str) -> str:
    stat = root.stat()
    device = f"{os.major(stat.st_dev)}:{os.minor(stat.st_dev)}"
    real = str(root.resolve())
    best, kind = (False, -1), "unknown"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:  # noqa: PLR2004 - proc(5): the fifth is where it is
            continue
        where = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        inside = real == where or real.startswith(where.rstrip("/") + "/")
        # Subvolumes of btrfs have devices that no mount names: then where it is has to do. Of
        # mounts on one another, the last one shows.
        rank = (fields[2] == device, len(where))
        if inside and rank >= best:
            best, kind = rank, after.split(" ")[0]
    return kind
