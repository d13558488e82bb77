"""Machines that people have or rent, as their makers describe them; `hanlin plan --device` reckons with these figures."""

from __future__ import annotations

import dataclasses
import difflib

from .errors import HanlinError


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One accelerator.

    Attributes:
        title: what people call it.
        tflops: dense matrix products per second in `dtype`, 10¹², accumulated in float32.
        memory: GiB that training may take.
        bandwidth: of its memory, GB/s.
        launch: seconds a kernel costs at least when each is started from Python.
        dtype: autocast type used there.
        price: of an hour's rent, CNY; 0 for a machine one owns.
        source: where the figures are from, (Chinese, English).
        bus: GB/s between host and device, as copies reach it (recalled); 0 where they share one memory.
        link: GB/s that a ring of such devices in one machine reaches in each direction (recalled); 0 where a machine has one device.
    """

    title: str
    tflops: float
    memory: float
    bandwidth: float
    launch: float
    dtype: str
    price: float
    source: tuple[str, str]
    bus: float = 20.0
    link: float = 10.0  # over PCIe 4.0 by way of the host: gaming cards do not reach each other


_RENT = ("租价凭记忆，2025 年国内租卡平台的大致水平", "rent recalled, roughly what platforms in China took in 2025")
_LAUNCH = 8e-6  # recalled: 5 to 10 µs for an eager kernel with its autograd node


def _rented(text: str, english: str) -> tuple[str, str]:
    return f"{text}；{_RENT[0]}", f"{english}; {_RENT[1]}"


HARDWARE: dict[str, Hardware] = {
    "rtx3090": Hardware("RTX 3090", 71.0, 24.0, 936.0, _LAUNCH, "bfloat16", 1.6, _rented("NVIDIA GA102 白皮书", "NVIDIA GA102 whitepaper")),
    "rtx4090": Hardware("RTX 4090", 165.0, 24.0, 1008.0, _LAUNCH, "bfloat16", 2.2, _rented("NVIDIA Ada 白皮书", "NVIDIA Ada whitepaper")),
    "a100": Hardware("A100 80G SXM", 312.0, 80.0, 2039.0, _LAUNCH, "bfloat16", 7.0, _rented("NVIDIA A100 数据表", "NVIDIA A100 datasheet"), link=230.0),
    "h100": Hardware("H100 80G SXM", 989.0, 80.0, 3350.0, _LAUNCH, "bfloat16", 16.0, _rented("NVIDIA H100 数据表", "NVIDIA H100 datasheet"), 45.0, 360.0),
    "mac-m2": Hardware("Mac M2 (16 GB)", 3.6, 11.0, 100.0, 2e-5, "float32", 0.0, ("Apple M2 发布稿；可用内存与启动开销凭记忆", "Apple's M2 announcement; usable memory and launch cost recalled"), 0.0, 0.0),
}  # fmt: skip

# What kernels reach of the figures above. Matrix products of 1024 and more: 70–80 % (790 of 989 TFLOP/s on the H100); traffic: 80 %.
MATRIX_SHARE, BANDWIDTH_SHARE = 0.7, 0.8
GPU_BASELINE_GIB = 0.6  # context and libraries, recalled
GPU_ALLOCATOR = 1.1  # reserved against in use, recalled


def find_hardware(name: str) -> Hardware:
    """The table's row.

    Raises:
        HanlinError: not in the table.
    """
    if name not in HARDWARE:
        close = difflib.get_close_matches(name, HARDWARE, n=1)
        names = ", ".join([*HARDWARE, "this"])
        raise HanlinError(
            f"设备表里没有 {name}。" + (f"是不是 {close[0]}？" if close else "") + f"可用：{names}。",
            f"{name} is not in the table of devices. " + (f"Did you mean {close[0]}? " if close else "") + f"Known: {names}.",
        )
    return HARDWARE[name]
