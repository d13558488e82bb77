"""`hanlin doctor`: what this machine offers, and what would help."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.common.messages import Text, listing, tr
from hanlin.common.terminal import table

if TYPE_CHECKING:
    import torch

    from hanlin.common.devices import DeviceCapabilities

_OPTIONAL = {
    "fastapi": "serve",
    "uvicorn": "serve",
    "gguf": "export",
    "opencc": "data",
    "datatrove": "data",
    "transformers": "test",
}


def examine() -> dict[str, Any]:
    """Versions, device, memory, disk, compiler and extras of this machine, and advice in `advice` (two
    languages each).

    `attention` has what each back end of the device's row came to beside the reference, `known_issues` what
    is known to go wrong.
    """
    import torch

    from hanlin.common.devices import (
        communication_present,
        device_capabilities,
        known_issues,
        load_plugin,
        resolve_device,
    )

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
    }
    device = resolve_device("auto")
    row = device_capabilities(device)
    advice: list[dict[str, str]] = []
    found |= {
        "platform": row.name,
        "device": str(device),
        "train_dtype": row.train_dtype,
        "compile_trusted": row.compile_trusted,
    }
    found |= {"distributed_backend": row.distributed_backend, "attention": _attention(device, row)}
    failure = load_plugin()
    if failure:
        advice.append(
            Text("A device's plug-in is installed and does not load: {failure}", failure=failure).to_dict()
        )
    if not communication_present(device):
        advice.append(
            Text(
                "This torch has no {distributed_backend}: no training on several devices.",
                distributed_backend=row.distributed_backend,
            ).to_dict()
        )
    found["attention_chosen"] = next(
        (name for name, verdict in found["attention"].items() if verdict["right"]), None
    )
    if found["attention_chosen"] is None:
        advice.append(
            Text(
                "No attention back end is right on {row}: update the driver and torch, or use --device cpu.",
                row=row.name,
            ).to_dict()
        )
    found["known_issues"] = [
        issue.text.to_dict() | {"source": issue.source} for issue in known_issues(device)
    ]
    found |= {
        "language": tr("English (HANLIN_LANG changes it)"),
        "processor": cpu_name(),
    }
    found |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if hasattr(os, "sysconf"):
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
        available = memory_available()
        if available is not None:
            found["memory_free_gib"] = round(available / 2**30, 1)
        if found["memory_gib"] < 4:
            advice.append(Text("Less than 4 GiB of memory: the demo may be killed.").to_dict())
    found["disk_free_gb"] = round(shutil.disk_usage(".").free / 1e9, 1)
    if found["disk_free_gb"] < 2:
        advice.append(Text("Less than 2 GB free on this disk.").to_dict())
    found["compiler"] = next(
        (path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None
    )
    if found["compiler"] is None:
        advice.append(
            Text("No C++ compiler: torch.compile cannot work. Debian/Ubuntu: sudo apt install g++.").to_dict()
        )
    try:
        from hanlin import _native

        found["native_core"] = str(_native.__file__)
    except ImportError as error:
        found["native_core"] = None
        advice.append(
            Text("The C++ core is not built ({error}): run pip install -e .", error=error).to_dict()
        )
    found["optional"] = {}
    for name, extra in _OPTIONAL.items():
        try:
            found["optional"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found["optional"][name] = None
            advice.append(
                Text("{name} is missing: pip install 'hanlin[{extra}]'", name=name, extra=extra).to_dict()
            )
    if device.type == "cpu" and found["threads"] != os.cpu_count():
        advice.append(
            Text(
                "torch uses {threads} threads of {cpu_count} cores; OMP_NUM_THREADS changes that.",
                threads=found["threads"],
                cpu_count=os.cpu_count(),
            ).to_dict()
        )
    found["advice"] = advice
    return found


def cpu_name() -> str:
    """What the processor is called; its architecture where the system does not say."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model", "Hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        result = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if result.stdout.strip():
            return result.stdout.strip()
    return platform.processor() or platform.machine()


def memory_available() -> int | None:
    """Bytes that programs can still take without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _attention(device: torch.device, row: DeviceCapabilities) -> dict[str, dict[str, Any]]:
    """Each back end of the row beside the reference, in the training type: right, or what is wrong in two
    languages.

    One that has to be compiled is tried only where none before it is right; then it is in use.
    """
    import torch

    from hanlin.model.attention import backends

    verdicts: dict[str, dict[str, Any]] = {}
    for name in row.attention:
        if backends.BACKENDS[name].compiles and any(verdict["right"] for verdict in verdicts.values()):
            verdicts[name] = {"right": None}
            continue
        fault = backends.fault_of(name, device, getattr(torch, row.train_dtype))
        verdicts[name] = {"right": True} if fault is None else {"right": False, **fault.to_dict()}
    return verdicts


_NAMES = {
    "system": Text("system"),
    "platform": Text("platform"),
    "device": Text("device"),
    "train_dtype": Text("training precision"),
    "compile_trusted": Text("compiles by itself"),
    "distributed_backend": Text("communication"),
    "attention": Text("attention"),
    "language": Text("language"),
    "processor": Text("processor"),
    "memory_free_gib": Text("memory free, GiB"),
    "cores": Text("cores"),
    "threads": Text("threads"),
    "memory_gib": Text("memory, GiB"),
    "disk_free_gb": Text("disk free, GB"),
    "compiler": Text("C++ compiler"),
    "native_core": Text("C++ core"),
}


def render(found: dict[str, Any]) -> str:
    """The findings as lines for people."""
    shown = {
        str(_NAMES.get(name, name)): _text(name, value)
        for name, value in found.items()
        if name not in ("advice", "optional", "known_issues", "attention_chosen")
    }
    shown |= {name: version or "-" for name, version in found["optional"].items()}
    lines = table([[name, text] for name, text in shown.items()])
    if found["known_issues"]:
        lines += ["", tr("Known issues of {platform}:", platform=found["platform"])]
        lines += [f"  - {Text.from_dict(issue)} [{issue['source']}]" for issue in found["known_issues"]]
    lines += [""] + (
        [tr("Advice:")] + [f"  - {Text.from_dict(a)}" for a in found["advice"]]
        if found["advice"]
        else [tr("All is well.")]
    )
    return "\n".join(lines)


def _text(name: str, value: Any) -> str:
    if name == "train_dtype" and value == "float16":
        return tr("float16 with a dynamic loss scale")
    if name == "attention":
        return _attention_text(value)
    if isinstance(value, bool):
        return tr("yes") if value else tr("no")
    return str(value)


def _attention_text(verdicts: dict[str, dict[str, Any]]) -> str:
    """What is in use and in reserve; below it, in order, why each that is refused is."""
    used = next((name for name, verdict in verdicts.items() if verdict["right"]), None)
    reserve = [
        name + ("" if verdict["right"] else tr(" (not tried)"))
        for name, verdict in verdicts.items()
        if name != used and verdict["right"] is not False
    ]
    first = (tr("none is right") if used is None else used + tr(" (in use)")) + (
        tr("; in reserve: ") + str(listing(reserve)) if reserve else ""
    )
    refused = [
        f"  - {name}{tr(' refused: ')}{Text.from_dict(verdict)}"
        for name, verdict in verdicts.items()
        if verdict["right"] is False
    ]
    return "\n".join([first, *refused])
