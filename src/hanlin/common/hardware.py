"""Machines that people have or rent, as their makers describe them; `hanlin plan --device` reckons with these
figures."""

from __future__ import annotations

import dataclasses
import difflib
import re

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, joined


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
        link: GB/s that a ring of such devices in one machine reaches in each direction (recalled); 0 where a
            machine has one device.
    """

    title: str
    tflops: float
    memory: float
    bandwidth: float
    launch: float
    dtype: str
    price: float
    source: Text
    bus: float = 20.0
    link: float = 10.0  # over PCIe 4.0 by way of the host: gaming cards do not reach each other


_RENT = Text("rent recalled, roughly what platforms in China took in 2025")
_LAUNCH = 8e-6  # recalled: 5 to 10 µs for an eager kernel with its autograd node


def _rented(sheet: Text) -> Text:
    return joined([sheet, _RENT], Text("; "))


def _card(
    title: str,
    tflops: float,
    memory: float,
    bandwidth: float,
    sheet: str,
    dtype: str = "bfloat16",
    bus: float = 20.0,
) -> Hardware:
    """A card that people have: no rent. Figures as the maker's sheet has them, recalled; nothing was run on
    it here."""
    about = Text("{sheet}, recalled; nothing was run on such a card here", sheet=sheet)
    return Hardware(title, tflops, memory, bandwidth, _LAUNCH, dtype, 0.0, about, bus)


def _mac(title: str, tflops: float, memory: float, bandwidth: float) -> Hardware:
    """A Mac: float32, and about 70 % of the memory that it shares. Apple publishes bandwidth; the arithmetic
    is recalled."""
    about = Text(
        "Apple's specifications; arithmetic, usable memory and launch cost recalled; nothing was run on it"
    )
    return Hardware(title, tflops, memory, bandwidth, 2e-5, "float32", 0.0, about, 0.0, 0.0)


# Dense, accumulated in float32: half of what GeForce sheets print for float16 with float16 accumulation, a
# quarter of "sparse" figures.
HARDWARE: dict[str, Hardware] = {
    "rtx3090": Hardware(
        "RTX 3090",
        71.0,
        24.0,
        936.0,
        _LAUNCH,
        "bfloat16",
        1.6,
        _rented(Text("NVIDIA GA102 whitepaper")),
    ),
    "rtx4090": Hardware(
        "RTX 4090",
        165.0,
        24.0,
        1008.0,
        _LAUNCH,
        "bfloat16",
        2.2,
        _rented(Text("NVIDIA Ada whitepaper")),
    ),
    "a100": Hardware(
        "A100 80G SXM",
        312.0,
        80.0,
        2039.0,
        _LAUNCH,
        "bfloat16",
        7.0,
        _rented(Text("NVIDIA A100 datasheet")),
        link=230.0,
    ),
    "h100": Hardware(
        "H100 80G SXM",
        989.0,
        80.0,
        3350.0,
        _LAUNCH,
        "bfloat16",
        16.0,
        _rented(Text("NVIDIA H100 datasheet")),
        45.0,
        360.0,
    ),
    "rtx2080ti": _card("RTX 2080 Ti", 53.8, 11.0, 616.0, "NVIDIA Turing whitepaper", "float16", 10.0),
    "rtx3060": _card("RTX 3060 12G", 25.5, 12.0, 360.0, "NVIDIA GeForce RTX 30 specifications"),
    "rtx4060": _card("RTX 4060", 30.2, 8.0, 272.0, "NVIDIA Ada whitepaper", bus=10.0),
    "rtx4060ti": _card("RTX 4060 Ti 16G", 44.1, 16.0, 288.0, "NVIDIA Ada whitepaper", bus=10.0),
    "rtx4070": _card("RTX 4070", 58.3, 12.0, 504.0, "NVIDIA Ada whitepaper"),
    "rtx4080": _card("RTX 4080", 97.5, 16.0, 717.0, "NVIDIA Ada whitepaper"),
    "rtx5070": _card("RTX 5070", 61.7, 12.0, 672.0, "NVIDIA RTX Blackwell whitepaper", bus=40.0),
    "rtx5080": _card("RTX 5080", 112.6, 16.0, 960.0, "NVIDIA RTX Blackwell whitepaper", bus=40.0),
    "rtx5090": _card("RTX 5090", 209.5, 32.0, 1792.0, "NVIDIA RTX Blackwell whitepaper", bus=40.0),
    "t4": _card("T4", 65.0, 15.0, 320.0, "NVIDIA T4 datasheet", "float16", 10.0),
    "p100": _card(
        "P100 16G PCIe", 9.3, 16.0, 732.0, "NVIDIA P100 datasheet", "float32", 10.0
    ),  # compute capability 6.0 trains in float32
    "v100": _card("V100 16G SXM2", 125.0, 16.0, 900.0, "NVIDIA V100 datasheet", "float16", 10.0),
    "v100-32g": _card("V100 32G SXM2", 125.0, 32.0, 900.0, "NVIDIA V100 datasheet", "float16", 10.0),
    "a10": _card("A10", 125.0, 24.0, 600.0, "NVIDIA A10 datasheet"),
    "l4": _card("L4", 121.0, 24.0, 300.0, "NVIDIA L4 datasheet"),
    "910b": _card("Ascend 910B3", 313.0, 64.0, 1600.0, "Huawei Atlas 800T A2 specifications"),
    "arc-b580": _card("Intel Arc B580", 116.0, 12.0, 456.0, "Intel ARK, Arc B580"),
    "arc-a770": _card("Intel Arc A770 16G", 131.0, 16.0, 560.0, "Intel ARK, Arc A770"),
    "mac-m1": _mac("Mac M1 (16 GB)", 2.6, 11.0, 68.0),
    "mac-m1-pro": _mac("Mac M1 Pro (16 GB)", 5.2, 11.0, 200.0),
    "mac-m1-max": _mac("Mac M1 Max (32 GB)", 10.4, 22.0, 400.0),
    "mac-m2-pro": _mac("Mac M2 Pro (16 GB)", 6.8, 11.0, 200.0),
    "mac-m2-max": _mac("Mac M2 Max (32 GB)", 13.6, 22.0, 400.0),
    "mac-m3": _mac("Mac M3 (16 GB)", 3.5, 11.0, 100.0),
    "mac-m3-pro": _mac("Mac M3 Pro (18 GB)", 6.4, 12.0, 150.0),
    "mac-m3-max": _mac("Mac M3 Max (36 GB)", 14.0, 25.0, 400.0),
    "mac-m4": _mac("Mac M4 (16 GB)", 4.3, 11.0, 120.0),
    "mac-m4-pro": _mac("Mac M4 Pro (24 GB)", 8.5, 17.0, 273.0),
    "mac-m4-max": _mac("Mac M4 Max (36 GB)", 17.0, 25.0, 546.0),
    "mac-m2": Hardware(
        "Mac M2 (16 GB)",
        3.6,
        11.0,
        100.0,
        2e-5,
        "float32",
        0.0,
        Text("Apple's M2 announcement; usable memory and launch cost recalled"),
        0.0,
        0.0,
    ),
}

# What kernels reach of the figures above. Matrix products of 1024 and more: 70–80 % (790 of 989 TFLOP/s on
# the H100); traffic: 80 %.
MATRIX_EFFICIENCY, BANDWIDTH_EFFICIENCY = 0.7, 0.8
GPU_BASELINE_GIB = 0.6  # context and libraries, recalled
GPU_ALLOCATOR = 1.1  # reserved against in use, recalled


def find_hardware(name: str) -> Hardware:
    """The table's row; `RTX 4060 Ti` and `rtx4060ti` are the same.

    Raises:
        HanlinError: not in the table.
    """
    asked, name = (
        name,
        re.sub(
            r"[\s_]+",
            "" if "mac" not in name.lower() and "arc" not in name.lower() else "-",
            name.strip().lower(),
        ),
    )
    if name not in HARDWARE:
        name = asked
        close = difflib.get_close_matches(name.lower(), HARDWARE, n=1)
        names = ", ".join([*HARDWARE, "this"])
        raise HanlinError(
            "{name} is not in the table of devices. {hint}Known: {names}. For another card give its memory "
            "in GiB with --vram.",
            name=name,
            hint=Text("Did you mean {close}? ", close=close[0]) if close else Text(""),
            names=names,
        )
    return HARDWARE[name]


def unknown_card(memory: float) -> Hardware:
    """A card that is not in the table: its memory is known, and an RTX 3060 stands in for its speed.

    Raises:
        HanlinError: no such memory.
    """
    if not 1 <= memory <= 1024:
        raise HanlinError("--vram {memory:g} should be between 1 and 1024 GiB.", memory=memory)
    like = HARDWARE["rtx3060"]
    source = Text("only the memory is known; the speed is taken to be that of a {title}", title=like.title)
    return dataclasses.replace(like, title=f"{memory:g} GiB", memory=memory, source=source)
