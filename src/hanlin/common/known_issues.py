"""What is known to go wrong on each kind of device, with the place where it is reported. `common.devices`
puts it in its table."""

from __future__ import annotations

import dataclasses

from hanlin.common.messages import Text


@dataclasses.dataclass(frozen=True)
class KnownIssue:
    """Something known to go wrong on a kind of device.

    Attributes:
        text: what it is, and what is done or to be done about it.
        source: where it is reported; `lab-log` is our own.
        dtypes: training types on which it bears; all when empty.
    """

    text: Text
    source: str
    dtypes: tuple[str, ...] = ()


CPU_ISSUES = (
    KnownIssue(
        Text(
            "without AVX512-BF16 or AMX, bf16 products are more than 50 times slower than fp32: do not set "
            "HANLIN_PRECISION=bfloat16 there"
        ),
        "lab-log 2026-11-21, torch 2.13",
    ),
    KnownIssue(
        Text(
            "with other programs on the cores, spinning OpenMP threads make training several times slower; "
            "the command line sets GOMP_SPINCOUNT=1000"
        ),
        "lab-log 2026-11-21",
    ),
)

CUDA_ISSUES = (
    KnownIssue(
        Text(
            "torch.cuda.is_bf16_supported() counts emulation and says yes on Turing too; compute "
            "capability decides here, and fp16 with a loss scale is used"
        ),
        "pytorch#148322",
        ("float16",),
    ),
    KnownIssue(
        Text(
            "Pascal and older cards have no tensor cores, and 6.1 does fp16 at 1/64 of fp32's rate: "
            "training stays in fp32"
        ),
        "CUDA C++ Programming Guide (Arithmetic Instructions), NVIDIA/apex#76",
        ("float32",),
    ),
    KnownIssue(
        Text(
            "the memory-efficient kernel with a mask now and then gives NaN in backward (open); such steps "
            "are skipped, and three of them roll back"
        ),
        "pytorch#178251, pytorch#166211",
    ),
    KnownIssue(
        Text(
            "varlen gives NaN in backward, silently, where its input is longer than the last bound (since "
            "torch 2.10, no fix seen); the bounds here always reach the end of the rows"
        ),
        "pytorch#176793",
        ("bfloat16", "float16"),
    ),
    KnownIssue(
        Text(
            "compiled FlexAttention has been reported with wrong gradients (open); the check at the start "
            "compares gradients and refuses it then"
        ),
        "pytorch#158212",
    ),
)

ROCM_ISSUES = (
    KnownIssue(
        Text(
            "torch says yes to bf16 on every AMD card; it is used only where there are matrix instructions "
            "for it (CDNA, RDNA 3 on), fp16 elsewhere"
        ),
        "torch 2.13 torch/cuda/__init__.py, rocWMMA",
        ("float16",),
    ),
    KnownIssue(
        Text(
            "on some consumer cards the flash kernels count as experimental and are used only with "
            "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1"
        ),
        "pytorch#134498, ROCm/aotriton#16",
    ),
    KnownIssue(
        Text(
            "SDPA fails outright on some integrated GPUs (gfx1103) and gives NaN in fp32 on gfx1150; the "
            "check at the start takes the next back end"
        ),
        "ROCm/TheRock#1908, ROCm/aotriton#183",
    ),
    KnownIssue(
        Text(
            "varlen is not settled on ROCm (torch skips its own tests of it): not used; FlexAttention was "
            "once wrong (fixed, the tracker is open), and is checked at the start"
        ),
        "pytorch#168880, pytorch#140855",
    ),
)

XPU_ISSUES = (
    KnownIssue(
        Text(
            "on Arc, SDPA with is_causal gives NaN gradients (open; once in dozens of steps, so a check at "
            "the start may miss it); a mask is always given instead"
        ),
        "pytorch#160787",
    ),
    KnownIssue(
        Text(
            "with torch 2.8 masked SDPA gives NaN on XPU too (closed); take a newer torch; the check at "
            "the start looks for it"
        ),
        "intel/torch-xpu-ops#1920, pytorch#154051",
    ),
    KnownIssue(
        Text(
            "FlexAttention is there since torch 2.9; with torch 2.14 on Battlemage its fp32 gradients are "
            "off by 9e-5 (open), within the tolerance here"
        ),
        "intel/torch-xpu-ops#5105",
    ),
    KnownIssue(Text("xccl is in torch's core since 2.8"), "pytorch#141741"),
)

MPS_ISSUES = (
    KnownIssue(
        Text(
            "torch.compile on MPS is an early prototype that has given wrong results: never compiled by "
            "itself"
        ),
        "pytorch#150121, pytorch#191976",
    ),
    KnownIssue(
        Text("bf16 needs macOS 14 and was no faster even on an M4 Max: training stays in fp32"),
        "pytorch#119641, karpathy/nanochat#244",
    ),
)

NPU_ISSUES = (
    KnownIssue(
        Text(
            "needs torch_npu of torch's version, and CANN; when it is installed and not found, hanlin "
            "doctor says what it said"
        ),
        "pytorch/torchchat#1521",
    ),
    KnownIssue(
        Text("the 910A has no bf16: fp16 with a loss scale"), "vllm-project/vllm-ascend#9294", ("float16",)
    ),
    KnownIssue(
        Text("SDPA's boolean masks were once computed wrongly (closed); only additive masks are used here"),
        "Ascend/pytorch#88",
    ),
)
