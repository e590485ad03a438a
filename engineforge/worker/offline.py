"""A process without a network: what exports a model has no business there."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# linux/sched.h
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000


def leave_network() -> str | None:
    """Give this process, which must have one thread, a network of its own with nothing in it. Why
    that is not possible here, where it is not: containers and some kernels forbid it."""
    user, group = os.getuid(), os.getgid()
    library = ctypes.CDLL(None, use_errno=True)
    # A network of its own takes a privilege, which a user namespace of its own has.
    if library.unshare(_NEW_USER | _NEW_NETWORK) != 0:
        return os.strerror(ctypes.get_errno())
    # Files stay those of the same user.
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny", encoding="ascii")
    (own / "uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    (own / "gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    return None
