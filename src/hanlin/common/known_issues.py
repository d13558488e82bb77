"""What is known to go wrong on each kind of device, with the place where it is reported. `common.devices` puts it in its table."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Trap:
    """Something known to go wrong on a kind of device.

    Attributes:
        zh, en: what it is, and what is done or to be done about it.
        source: where it is reported; `lab-log` is our own.
        dtypes: training types on which it bears; all when empty.
    """

    zh: str
    en: str
    source: str
    dtypes: tuple[str, ...] = ()


CPU_TRAPS = (
    Trap(
        "没有 AVX512-BF16 或 AMX 的 CPU 上，bf16 矩阵乘比 fp32 慢 50 倍以上：不要在那里设 HANLIN_PRECISION=bfloat16",
        "without AVX512-BF16 or AMX, bf16 products are more than 50 times slower than fp32: do not set HANLIN_PRECISION=bfloat16 there",
        "lab-log 2026-11-21, torch 2.13",
    ),
    Trap(
        "别的程序占着核时，OpenMP 线程空转会让训练慢几倍；命令行默认设 GOMP_SPINCOUNT=1000",
        "with other programs on the cores, spinning OpenMP threads make training several times slower; the command line sets GOMP_SPINCOUNT=1000",
        "lab-log 2026-11-21",
    ),
)

CUDA_TRAPS = (
    Trap(
        "torch.cuda.is_bf16_supported() 把软件模拟也算作支持，Turing 上也答“是”；这里按计算能力判断，改用 fp16 加损失放大",
        "torch.cuda.is_bf16_supported() counts emulation and says yes on Turing too; compute capability decides here, and fp16 with a loss scale is used",
        "pytorch#148322",
        ("float16",),
    ),
    Trap(
        "Pascal 及更早的卡没有张量核，6.1 的 fp16 只有 fp32 的 1/64：用 fp32 训练",
        "Pascal and older cards have no tensor cores, and 6.1 does fp16 at 1/64 of fp32's rate: training stays in fp32",
        "CUDA C++ Programming Guide (Arithmetic Instructions), NVIDIA/apex#76",
        ("float32",),
    ),
    Trap(
        "带掩码的省内存内核偶尔在反向给出 NaN（未关闭）；这样的步会被跳过，三步就退回",
        "the memory-efficient kernel with a mask now and then gives NaN in backward (open); such steps are skipped, and three of them roll back",
        "pytorch#178251, pytorch#166211",
    ),
    Trap(
        "varlen 的输入比最后一个边界长时，反向静默给出 NaN（torch 2.10 起，未见修复）；这里的边界总到行末",
        "varlen gives NaN in backward, silently, where its input is longer than the last bound (since torch 2.10, no fix seen); the bounds here always reach the end of the rows",
        "pytorch#176793",
        ("bfloat16", "float16"),
    ),
    Trap(
        "编译后的 FlexAttention 有过梯度错误的报告（未关闭）；开始时的检查比较了梯度，错的不用",
        "compiled FlexAttention has been reported with wrong gradients (open); the check at the start compares gradients and refuses it then",
        "pytorch#158212",
    ),
)

ROCM_TRAPS = (
    Trap(
        "torch 对所有 AMD 卡都说支持 bf16；这里只在有 bf16 矩阵指令的架构（CDNA、RDNA 3 起）上用它，其余用 fp16",
        "torch says yes to bf16 on every AMD card; it is used only where there are matrix instructions for it (CDNA, RDNA 3 on), fp16 elsewhere",
        "torch 2.13 torch/cuda/__init__.py, rocWMMA",
        ("float16",),
    ),
    Trap(
        "一些消费级卡的 flash 内核还算实验性的，不设 TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1 就走慢的写法",
        "on some consumer cards the flash kernels count as experimental and are used only with TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1",
        "pytorch#134498, ROCm/aotriton#16",
    ),
    Trap(
        "有的核显（gfx1103）上 SDPA 直接失败，gfx1150 上 fp32 会给 NaN；开始时的检查会换下一种写法",
        "SDPA fails outright on some integrated GPUs (gfx1103) and gives NaN in fp32 on gfx1150; the check at the start takes the next back end",
        "ROCm/TheRock#1908, ROCm/aotriton#183",
    ),
    Trap(
        "varlen 在 ROCm 上还不成熟（torch 自己的测试跳过它）：不用；FlexAttention 曾经算错（修正已合并，总单未关），开始时会检查",
        "varlen is not settled on ROCm (torch skips its own tests of it): not used; FlexAttention was once wrong (fixed, the tracker is open), and is checked at the start",
        "pytorch#168880, pytorch#140855",
    ),
)

XPU_TRAPS = (
    Trap(
        "Arc 上 SDPA 的 is_causal 会让梯度出 NaN（未关闭，几十步一次，开始时不一定碰得上）；这里从不用 is_causal，总给掩码",
        "on Arc, SDPA with is_causal gives NaN gradients (open; once in dozens of steps, so a check at the start may miss it); a mask is always given instead",
        "pytorch#160787",
    ),
    Trap(
        "torch 2.8 的 XPU 上带掩码的 SDPA 也会出 NaN（已关闭）；请用新的 torch，开始时会检查",
        "with torch 2.8 masked SDPA gives NaN on XPU too (closed); take a newer torch; the check at the start looks for it",
        "intel/torch-xpu-ops#1920, pytorch#154051",
    ),
    Trap(
        "FlexAttention 从 torch 2.9 起有；torch 2.14 在 Battlemage 上 fp32 的梯度差到 9e-5（未关闭），在容许值之内",
        "FlexAttention is there since torch 2.9; with torch 2.14 on Battlemage its fp32 gradients are off by 9e-5 (open), within the tolerance here",
        "intel/torch-xpu-ops#5105",
    ),
    Trap(
        "xccl 从 torch 2.8 起才在核心里",
        "xccl is in torch's core since 2.8",
        "pytorch#141741",
    ),
)

MPS_TRAPS = (
    Trap(
        "MPS 上的 torch.compile 还是早期原型，结果错过：从不自动编译",
        "torch.compile on MPS is an early prototype that has given wrong results: never compiled by itself",
        "pytorch#150121, pytorch#191976",
    ),
    Trap(
        "bf16 要 macOS 14，在 M4 Max 上也没有更快：用 fp32 训练",
        "bf16 needs macOS 14 and was no faster even on an M4 Max: training stays in fp32",
        "pytorch#119641, karpathy/nanochat#244",
    ),
)

NPU_TRAPS = (
    Trap(
        "要装与 torch 同版本的 torch_npu 和 CANN；装了却找不到时看 hanlin doctor 的原话",
        "needs torch_npu of torch's version, and CANN; when it is installed and not found, hanlin doctor says what it said",
        "pytorch/torchchat#1521",
    ),
    Trap(
        "910A 没有 bf16：用 fp16 加损失放大",
        "the 910A has no bf16: fp16 with a loss scale",
        "vllm-project/vllm-ascend#9294",
        ("float16",),
    ),
    Trap(
        "SDPA 的布尔掩码曾经算错（已关闭）；这里只用加性掩码",
        "SDPA's boolean masks were once computed wrongly (closed); only additive masks are used here",
        "Ascend/pytorch#88",
    ),
)
