"""A process without a network, and with no more memory than there is: code of users and of
exporters runs in it."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

# linux/sched.h
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000


def leave_network() -> str | None:
    """Give this process, which must have one thread, a network of its own with nothing in it. Why
    that is not possible here, where it is not: containers and some kernels forbid it."""
    user, group = os.getuid(), os.getgid()
    library = ctypes.CDLL(None, use_errno=True)
    # Where root may have one, it stays root to the files of others.
    if library.unshare(_NEW_NETWORK) == 0:
        return None
    # It takes a privilege, which a user namespace of its own has.
    if library.unshare(_NEW_USER | _NEW_NETWORK) != 0:
        return os.strerror(ctypes.get_errno())
    # Files stay those of the same user.
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny", encoding="ascii")
    (own / "uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    (own / "gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    return None


def limit_memory(size: int) -> None:
    """Let this process have so many bytes of memory of its own: it fails where it asks for more,
    before the kernel ends whatever it likes."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = size if most == resource.RLIM_INFINITY else min(size, most)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, most))
