"""Memory of this process, as the system counts it: the one place that reads `/proc` for it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

_STATUS = Path("/proc/self/status")


def resident_mb() -> float:
    """Resident memory of this process in MiB, now; its peak where the system tells only that (macOS); 0
    where neither."""
    return _status_mb("VmRSS") or _usage_mb()


def peak_rss_mb(reset: bool = False) -> float:
    """Peak resident memory of this process in MiB, since the last reset where the system can reset it
    (Linux); 0 where it does not say.

    Args:
        reset: begin anew from what is resident now.
    """
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmHWM") or _usage_mb()


def _status_mb(key: str) -> float | None:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) / 1024
    return None


def _usage_mb() -> float:
    if resource is None:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << 20 if sys.platform == "darwin" else 1 << 10
    )
