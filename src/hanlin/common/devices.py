"""Everything that differs between devices, in one table. No other file names a vendor."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import HanlinError

try:
    import resource
except ImportError:  # Windows
    resource = None

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class DeviceTraits:
    """What a kind of device can do.

    Attributes:
        train_dtype: autocast type of the matrix products, or float32. CPUs without AVX512-bf16 multiply bf16
            50 times slower than fp32 (measured here), so they stay in float32.
        distributed_backend: the torch.distributed back end.
        pin_memory: whether pinned host memory speeds up copies to the device.
        compile_flops: training work, in FLOPs, from which compiling pays; infinite where it is not to be trusted. A CPU gains
            5-9 % and compiles for half a minute to a minute and a half (measured here: twenty minutes at 180 GFLOP/s are
            enough); accelerators gain more, and a minute of a consumer card is 3e15.
    """

    train_dtype: str
    distributed_backend: str
    pin_memory: bool
    compile_flops: float


TRAITS: dict[str, DeviceTraits] = {
    "cpu": DeviceTraits("float32", "gloo", False, 2e14),
    "cuda": DeviceTraits("bfloat16", "nccl", True, 5e15),
    "xpu": DeviceTraits("bfloat16", "xccl", True, 5e15),
    "mps": DeviceTraits("float32", "gloo", False, float("inf")),
    "npu": DeviceTraits("bfloat16", "hccl", True, float("inf")),
}


def resolve_device(spec: str | None = None) -> torch.device:
    """The device named by `spec` (`auto`, `cpu`, `cuda:0`, …); `auto` takes the accelerator when there is one.

    Raises:
        HanlinError: the kind is unknown, or absent on this machine.
    """
    import torch

    present = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if spec in (None, "", "auto"):
        return present or torch.device("cpu")
    try:
        device = torch.device(spec)
    except RuntimeError:
        raise HanlinError(f"不认识的设备 {spec!r}。可用：auto、cpu" + (f"、{present.type}" if present else "") + "。", f"Unknown device {spec!r}. Available: auto, cpu" + (f", {present.type}." if present else ".")) from None
    if device.type != "cpu" and (present is None or present.type != device.type):
        raise HanlinError(
            f"这台机器上没有 {device.type} 设备。请用 --device auto，或运行 hanlin doctor 查看原因。",
            f"There is no {device.type} device on this machine. Use --device auto, or see hanlin doctor.",
        )
    return device


def traits(device: torch.device) -> DeviceTraits:
    """The table's row for a device; an unlisted kind is treated like a CPU."""
    return TRAITS.get(device.type, TRAITS["cpu"])


def has_own_memory(device: torch.device) -> bool:
    """Whether tensors on the device take none of the system's memory."""
    return device.type not in ("cpu", "mps")


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue, where it has one."""
    if device.type != "cpu":
        import torch

        torch.accelerator.synchronize()


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device, under way while the host goes on: from pinned memory, since a copy from any other waits for the device's queue."""
    if tensor.device == device:
        return tensor
    if tensor.device.type == "cpu" and traits(device).pin_memory:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def keep_freed_memory() -> None:
    """Tell glibc to keep what a step frees for the next one: giving it back costs a page fault per 4 KiB, step after step.

    Nothing elsewhere. Measured here: 2-8 % of a training step on a CPU.
    """
    import ctypes

    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
        mallopt(mmap_threshold, 32 << 20)  # the most it takes
        mallopt(trim_threshold, (1 << 31) - 1)
        mallopt(top_pad, 64 << 20)


@functools.cache
def matmul_peak(device: torch.device) -> float:
    """FLOP/s that matrix products of the device's training type reach here, with the threads of now; measured once, in under 0.3 s.

    The best of several products of the size that takes about 15 ms: what a step would reach if it were products alone.
    """
    import torch

    dtype = getattr(torch, traits(device).train_dtype)
    size, best = 256, 0.0
    deadline = time.monotonic() + 0.2
    while True:
        a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
        a @ b
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        taken = time.perf_counter() - began
        best = max(best, 2.0 * size**3 / taken)
        if taken < 0.008 and size < 8192:
            size *= 2
        elif time.monotonic() > deadline:
            return best


def memory_mb(device: torch.device) -> dict[str, float]:
    """`memory_mb`: resident memory of this process; `device_memory_mb`: what its tensors have taken of the device at most, where it says."""
    found = {}
    statm = Path("/proc/self/statm")
    if statm.exists():
        found["memory_mb"] = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    elif resource is not None:  # the most so far, in bytes on macOS
        found["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    if device.type != "cpu":
        import torch

        most = getattr(getattr(torch, device.type, None), "max_memory_allocated", None)
        if most is not None:
            found["device_memory_mb"] = most(device) / 2**20
    return found


def free_memory(device: torch.device) -> int:
    """Bytes a new program may take on the device: its own memory, or the system's for a CPU and for shared memory."""
    import torch

    if device.type != "cpu" and hasattr(torch.accelerator, "get_memory_info"):
        try:
            return int(torch.accelerator.get_memory_info(device)[0])
        except RuntimeError:  # a device whose memory is the system's
            pass
    return _free_system_memory()


def _free_system_memory() -> int:
    """What the system says is available, within the limit of the control group (containers) where there is one."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 4 << 30
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, free)
