"""Everything that differs between devices, in one table. No other file names a vendor."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hanlin.common.errors import HanlinError
from hanlin.common.known_issues import (
    CPU_ISSUES,
    CUDA_ISSUES,
    MPS_ISSUES,
    NPU_ISSUES,
    ROCM_ISSUES,
    XPU_ISSUES,
    KnownIssue,
)
from hanlin.common.messages import Text, listing
from hanlin.common.process_memory import resident_mb

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class DeviceCapabilities:
    """What a kind of device can do.

    Attributes:
        name: what its makers call the platform.
        train_dtype: autocast type of the matrix products, or float32; `auto` for what the device at hand
            computes natively, which `device_capabilities` puts in. float16 needs
            `training.precision.GradientScaler`.
        attention: names of `model.backends.BACKENDS`, best first; a training takes the first that is right
            on the device.
        distributed_backend: the torch.distributed back end.
        pin_memory: whether pinned host memory speeds up copies to the device.
        compile_flops: training work, in FLOPs, from which compiling pays; infinite where it is not to be
            trusted. A CPU gains 5-9 % and compiles for half a minute to a minute and a half (measured here:
            twenty minutes at 180 GFLOP/s are enough); accelerators gain more, and a minute of a consumer
            card is 3e15.
        discrete: whether tensors on the device take none of the system's memory.
        peak_memory: bytes of the device that this process's tensors have taken, at most where the device
            keeps count; None without one.
        known_issues: known faults.
    """

    name: str
    train_dtype: str
    attention: tuple[str, ...]
    distributed_backend: str
    pin_memory: bool
    compile_flops: float
    discrete: bool
    peak_memory: Callable[[torch.device], int] | None
    known_issues: tuple[KnownIssue, ...] = ()

    @property
    def compile_trusted(self) -> bool:
        """Whether `compile: auto` may ever compile."""
        return math.isfinite(self.compile_flops)


def _most_allocated(device: torch.device) -> int:
    import torch

    return torch.get_device_module(device).max_memory_allocated(device)


def _metal_memory(device: torch.device) -> int:
    import torch

    return torch.mps.driver_allocated_memory()


_SDPA = ("sdpa", "masked_sdpa", "plain")
_NEVER = float("inf")
AUTO = "auto"
PRECISIONS = ("float32", "bfloat16", "float16")

CAPABILITIES: dict[str, DeviceCapabilities] = {
    "cpu": DeviceCapabilities(
        "CPU", AUTO, ("tiles", "sdpa", "plain"), "gloo", False, 2e14, False, None, CPU_ISSUES
    ),
    # varlen: bf16 and fp16 from Ampere on; flex where there is Triton: float32, and cards before
    "cuda": DeviceCapabilities(
        "CUDA", AUTO, ("varlen", "flex", *_SDPA), "nccl", True, 5e15, True, _most_allocated, CUDA_ISSUES
    ),
    # not varlen: its own tests are skipped on ROCm up to torch 2.13 (pytorch#168880)
    "rocm": DeviceCapabilities(
        "ROCm", AUTO, ("flex", *_SDPA), "nccl", True, 5e15, True, _most_allocated, ROCM_ISSUES
    ),  # RCCL goes by the name nccl
    # never is_causal: its NaN comes once in dozens of steps, and a check at the start need not meet it
    # FlexAttention has been there since torch 2.9; masked SDPA keeps all (T, T) probabilities in training
    # (intel/torch-xpu-ops#2489)
    "xpu": DeviceCapabilities(
        "XPU",
        AUTO,
        ("masked_flex", "masked_sdpa", "plain"),
        "xccl",
        True,
        5e15,
        True,
        _most_allocated,
        XPU_ISSUES,
    ),
    "mps": DeviceCapabilities("MPS", AUTO, _SDPA, "gloo", False, _NEVER, False, _metal_memory, MPS_ISSUES),
    "npu": DeviceCapabilities("NPU", AUTO, _SDPA, "hccl", True, _NEVER, True, _most_allocated, NPU_ISSUES),
}
_UNLISTED = DeviceCapabilities("?", "float32", ("masked_sdpa", "plain"), "gloo", False, _NEVER, True, None)


def resolve_device(spec: str | None = None) -> torch.device:
    """The device named by `spec` (`auto`, `cpu`, `cuda:0`, …); `auto` takes the accelerator when there is
    one.

    Raises:
        HanlinError: the kind is unknown, or absent on this machine, or has no such number.
    """
    import torch

    failure = load_plugin()
    present = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if spec in (None, "", "auto"):
        return present or torch.device("cpu")
    kind, colon, number = spec.partition(":")
    if kind == "rocm":  # torch calls it by another name
        kind = "cuda"
    try:
        device = torch.device(kind + colon + number)
    except RuntimeError:
        if kind not in CAPABILITIES:
            raise HanlinError(
                "Unknown device {spec!r}. Available: {devices}.",
                spec=spec,
                devices=listing(["auto", "cpu", *([present.type] if present else [])]),
            ) from None
        device = None
    if device is None or (device.type != "cpu" and (present is None or present.type != device.type)):
        why = Text(" ({failure})", failure=failure) if failure and kind == "npu" else Text("")
        raise HanlinError(
            "There is no {kind} device on this machine{why}. Use --device auto, or see hanlin doctor.",
            kind=kind,
            why=why,
        )
    if device.type != "cpu" and device.index is not None and device.index >= torch.accelerator.device_count():
        count = torch.accelerator.device_count()
        raise HanlinError(
            "There is no {spec}: this machine has {count} of them, counted from 0.", spec=spec, count=count
        )
    return device


def load_plugin() -> str | None:
    """Register Ascend's device, where its package is installed and torch has not loaded it by itself; why
    not, when that fails."""
    import torch

    if hasattr(torch, "npu") or importlib.util.find_spec("torch_npu") is None:
        return None
    try:
        importlib.import_module("torch_npu")
    # a package for another torch, or a machine without its driver: whatever it says is for the user
    except Exception as error:
        return f"torch_npu: {error}"
    return None


def kind_of(device: torch.device) -> str:
    """The table's key for a device. ROCm calls its devices by the name of CUDA's."""
    import torch

    return "rocm" if device.type == "cuda" and torch.version.hip else device.type


def device_capabilities(device: torch.device) -> DeviceCapabilities:
    """The table's row for a device, with the training type that this one computes natively, or the one that
    `HANLIN_PRECISION` asks for.

    Raises:
        HanlinError: `HANLIN_PRECISION` is none of `PRECISIONS`.
    """
    kind = kind_of(device)
    row = CAPABILITIES.get(kind, _UNLISTED)
    return (
        dataclasses.replace(row, train_dtype=_asked_precision() or _PROBES[kind](device))
        if row.train_dtype == AUTO
        else row
    )


def _asked_precision() -> str | None:
    asked = os.environ.get("HANLIN_PRECISION", AUTO) or AUTO
    if asked not in (AUTO, *PRECISIONS):
        names = ", ".join((AUTO, *PRECISIONS))
        raise HanlinError(
            "HANLIN_PRECISION={asked} is no training precision. Available: {names}.", asked=asked, names=names
        )
    return None if asked == AUTO else asked


def _cpu_dtype(device: torch.device) -> str:
    """bfloat16 where the processor multiplies it (AVX512-BF16 or AMX), else float32: emulated, it is slower
    than that.

    Measured here on whole steps of 1.3M, 6M and 26M parameters (Zen 5, two cores): 1.4, 1.9 and 2.1 times
    float32's tokens.
    """
    import torch

    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return "bfloat16" if any(check is not None and check() for check in checks) else "float32"


def _cuda_dtype(device: torch.device) -> str:
    """bfloat16 from Ampere on; float16 on Volta and Turing, whose tensor cores know no other; float32 on
    Pascal and before.

    Compute capability 6.1 does float16 at 1/64 of float32's rate ("Arithmetic instructions", CUDA C++
    Programming Guide), and without tensor cores products would add up in float16 (NVIDIA/apex#14).
    `is_bf16_supported` counts emulation (pytorch#148322).
    """
    import torch

    major, _ = torch.cuda.get_device_capability(device)
    return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"


def _rocm_dtype(device: torch.device) -> str:
    """bfloat16 where rocWMMA finds matrix instructions for it (CDNA, RDNA 3 and later), float16 on older
    ones; torch says yes to all."""
    import torch

    name = torch.cuda.get_device_properties(device).gcnArchName
    return (
        "bfloat16" if name.startswith(("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")) else "float16"
    )


def _xpu_dtype(device: torch.device) -> str:
    import torch

    return "bfloat16" if torch.xpu.get_device_properties(device).has_bfloat16_conversions else "float16"


def _npu_dtype(device: torch.device) -> str:
    """Ascend 910A has no bfloat16 (vllm-ascend#9294), 910B has."""
    import torch

    supported = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return "bfloat16" if supported is None or supported() else "float16"


_PROBES: dict[str, Callable[[torch.device], str]] = {
    "cpu": _cpu_dtype,
    "cuda": _cuda_dtype,
    "rocm": _rocm_dtype,
    "xpu": _xpu_dtype,
    "npu": _npu_dtype,
    "mps": lambda device: "float32",
}


def known_issues(device: torch.device) -> list[KnownIssue]:
    """The known issues of the row that bear on the device's training type."""
    row = device_capabilities(device)
    return [issue for issue in row.known_issues if not issue.dtypes or row.train_dtype in issue.dtypes]


def distributed_backends() -> set[str]:
    """All communication back ends of the table; they name themselves in their errors."""
    return {row.distributed_backend for row in CAPABILITIES.values()}


def communication_present(device: torch.device) -> bool:
    """Whether this torch was built with the row's communication back end, or a plug-in has brought it."""
    import torch.distributed

    return torch.distributed.is_available() and torch.distributed.is_backend_available(
        device_capabilities(device).distributed_backend
    )


def is_discrete(device: torch.device) -> bool:
    """Whether tensors on the device take none of the system's memory."""
    return device_capabilities(device).discrete


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue, where it has one."""
    if device.type != "cpu":
        import torch

        torch.accelerator.synchronize()


def to_device_async(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device, under way while the host goes on: from pinned memory, since a copy from any
    other waits for the device's queue."""
    if tensor.device == device:
        return tensor
    if tensor.device.type == "cpu" and device_capabilities(device).pin_memory:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def allocator_keep_freed() -> None:
    """Tell glibc to keep what a step frees for the next one: giving it back costs a page fault per 4 KiB,
    step after step.

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
    """FLOP/s that matrix products of the device's training type reach here, with the threads of now;
    measured once, in under 0.3 s.

    The best of several products of the size that takes about 15 ms: what a step would reach if it were
    products alone.
    """
    import torch

    dtype = getattr(torch, device_capabilities(device).train_dtype)
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
    """`memory_mb`: resident memory of this process; `device_memory_mb`: what its tensors have taken of the
    device at most, where it says."""
    found = {}
    resident = resident_mb()
    if resident:
        found["memory_mb"] = resident
    taken = device_capabilities(device).peak_memory
    if taken is not None:
        found["device_memory_mb"] = taken(device) / 2**20
    return found


def free_memory(device: torch.device) -> int:
    """Bytes a new program may take on the device: its own memory, or the system's for a CPU and for shared
    memory."""
    import torch

    if device.type != "cpu" and hasattr(torch.accelerator, "get_memory_info"):
        try:
            return int(torch.accelerator.get_memory_info(device)[0])
        except RuntimeError:  # a device whose memory is the system's
            pass
    return _free_system_memory()


def _free_system_memory() -> int:
    """What the system says is available, within the limit of the control group (containers) where there is
    one."""
    free = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 4 << 30
    )
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        free = min(
            free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        )
    return max(0, free)
