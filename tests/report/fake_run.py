"""A run as it could have been: every stage, one that lost to its control, one that was not kept, hostile text
in the samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hanlin.evaluation import Metric, pooled
from hanlin.report.format import as_current

HOSTILE = (
    "<script>alert('x')</script><img src=https://example.org/x.png onerror=alert(1)> & \"quotes\" </span>"
)

STORY = "小明把红色的风筝给了小红。小红把风筝带到公园，放在了长椅上。\n问题：风筝现在在哪里？"
PROBLEM = "果园里有 38 棵苹果树，又种了 27 棵，后来移走了 9 棵。现在有多少棵？"
THOUGHT = (
    "<think>\n先算种完以后的棵数：38 + 27 = 65。\n再减去移走的：65 - 9 = 56。\n</think>\n\n现在有 56 棵。"
)


def curve(path: Path, steps: int, seed: int, **figures: tuple[float, float, float]) -> str:
    """A metrics.jsonl whose figures go from a first to a last value with noise."""
    rng = np.random.default_rng(seed)
    with open(path, "w") as file:
        for step in range(1, steps + 1):
            t = step / steps
            raw: dict[str, Any] = {
                "step": step,
                "lr": 0.005 * min(1, 50 * t, 2 * (1 - t) + 0.002),
                "seconds": 0.25 * step,
                "tokens": 4096,
            }
            raw |= {
                "tokens_per_second": 16000 + 900 * rng.normal(),
                "grad_norm": 0.3 + 2 * np.exp(-20 * t) + 0.05 * abs(rng.normal()),
            }
            for name, (first, last, noise) in figures.items():
                raw[name] = last + (first - last) * np.exp(-9 * t) + noise * rng.normal()
            file.write(json.dumps({name: float(f"{value:.5g}") for name, value in raw.items()}) + "\n")
        file.write('{"step": 9999, "loss": 1.')  # what a kill leaves behind
    return str(path)


def stage(
    name: str,
    seconds: float,
    megabytes: float,
    metrics: dict[str, Metric] | None = None,
    samples: Any = (),
    kept: bool = True,
) -> dict[str, Any]:
    return {
        "name": name,
        "seconds": seconds,
        "peak_rss_mb": megabytes,
        "kept": kept,
        "metrics": {key: metric.to_dict() for key, metric in (metrics or {}).items()},
        "samples": list(samples),
    }


def fake_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Report and extras, with the curves' files written below `folder`."""
    share = Metric.proportion

    def bits(value: float) -> Metric:
        return Metric(value, value * 0.985, value * 1.015, 600, higher_is_better=False)

    base = "从前，小明住在河边的村子里。他有一只风筝，每天下午都要去放。"
    samples = {
        "pretrain": [
            {"prompt": "从前，", "before": "", "after": base},
            {
                "prompt": "小红走进图书馆，",
                "before": "",
                "after": "她借了一本关于星星的书，坐在窗边读了起来。",
            },
        ],
        "sft": [
            {
                "prompt": STORY,
                "before": "风筝在风筝的风筝里。小明说：“我们去公园吧。”小红说",
                "after": "风筝在公园的长椅上。",
            },
            {"prompt": PROBLEM, "before": "果园里的苹果树很高，小明很喜欢。", "after": "现在有 54 棵。"},
        ],
        "distill": [
            {"prompt": PROBLEM, "before": "现在有 54 棵。", "after": THOUGHT},
            {"prompt": STORY, "before": "风筝在公园的长椅上。", "after": "风筝在公园的长椅上。"},
        ],
        "dpo": [
            {
                "prompt": "请告诉我图书馆几点关门。",
                "before": "五点。别再问了。",
                "after": "您好，图书馆下午五点关门。祝您读书愉快！",
            },
            {"prompt": HOSTILE, "before": HOSTILE, "after": HOSTILE},
            {"prompt": "你好", "before": "嗯。", "after": "您好！很高兴见到您。"},
            {"prompt": "谢谢", "before": "哦。", "after": "不客气，随时为您服务。"},
        ],
        "grpo": [{"prompt": PROBLEM, "before": "现在有 56 棵。", "after": THOUGHT}],
    }
    rewards = pooled([share(k, 500) for k in (452, 461, 447)])
    stages = [
        stage(
            "corpus",
            41.2,
            612,
            {"dirt_removed": share(2866, 2880), "good_lost": share(61, 45120, higher_is_better=False)},
        ),
        stage("tokenizer", 6.3, 540),
        stage("dataset", 4.8, 498),
        stage(
            "pretrain",
            262.0,
            1490,
            {
                "bits_per_byte": bits(0.412).with_control("5-gram", bits(0.688)),
                "bits_per_byte/story": bits(0.433),
                "bits_per_byte/problem": bits(0.377),
            },
        ),
        stage(
            "sft",
            121.5,
            1380,
            {
                "story_answers": share(441, 500).with_control("base", share(37, 500)),
                "preferred_manner": share(263, 500, chance=0.5),
            },
        ),
        stage(
            "distill",
            148.0,
            1402,
            {
                "problems_solved": share(433, 500).with_control("direct", share(212, 500)),
                "story_answers": share(438, 500),
                "greetings": share(60, 150),
            },
        ),
        stage(
            "dpo",
            38.4,
            1705,
            {
                "preferred_manner": share(487, 500, chance=0.5).with_control("before", share(259, 500)),
                "story_answers": share(435, 500),
            },
        ),
        stage(
            "reward",
            22.7,
            1320,
            {"pair_accuracy": share(481, 500, chance=0.5).with_control("length", share(476.5, 500))},
        ),
        stage(
            "grpo",
            190.3,
            1544,
            {
                "task_reward": rewards.with_control("sft", pooled([share(k, 500) for k in (455, 466, 459)])),
                "story_answers": share(402, 500),
            },
            kept=False,
        ),
        stage(
            "evaluation",
            31.0,
            1215,
            {
                "bits_per_byte": bits(1.784).with_control("5-gram on 9.6M tokens", bits(0.688)),
                "story_answers": share(435, 500),
                "story_answers/sampled": share(401, 500),
                "problems_solved": share(433, 500),
                "preferred_manner": share(487, 500),
            },
        ),
        stage("gguf", 1.9, 820),
    ]
    report = {
        "format": 1,
        "recipe": "demo",
        "seed": 1,
        "seconds": sum(s["seconds"] for s in stages),
        "peak_rss_mb": 1705.0,
        "model": "model",
        "stages": stages,
        "about": {
            "family": "qwen3",
            "parameters": 1_130_000,
            "layers": 4,
            "hidden_size": 128,
            "heads": 4,
            "key_value_heads": 2,
            "vocab_size": 1536,
            "context": 512,
            "training_tokens": 5_500_000,
            "tokens_seen": 3_686_400,
            "training_flops": 2.6e13,
            "device": "cpu",
            "documents": 45061,
            "characters": 4_730_000,
            "sources": {"tinyworld/story": 30000, HOSTILE: 15061},
        },
        "machine": {
            "system": "Linux-6.1-x86_64",
            "processor": "x86_64",
            "cores": 2,
            "threads": 2,
            "memory_gib": 15.6,
            "device": "cpu",
        },
    }
    curves = {
        "pretrain": curve(
            folder / "pretrain.jsonl", 900, 0, loss=(7.6, 1.25, 0.05), bits_per_byte=(2.5, 0.41, 0.016)
        ),
        "sft": curve(folder / "sft.jsonl", 360, 1, loss=(2.4, 0.31, 0.03)),
        "distill": curve(folder / "distill.jsonl", 200, 2, loss=(1.4, 0.22, 0.02)),
        "dpo": curve(folder / "dpo.jsonl", 40, 3, loss=(0.69, 0.08, 0.02), accuracy=(0.5, 0.99, 0.01)),
        "reward": curve(folder / "reward.jsonl", 40, 4, loss=(0.69, 0.11, 0.02), accuracy=(0.5, 0.97, 0.02)),
        **{
            f"grpo{suffix}": curve(
                folder / f"grpo{suffix}.jsonl", 60, 5 + i, reward=(0.6, 0.9, 0.03), loss=(0.0, 0.0, 0.02)
            )
            for i, suffix in enumerate(("", "-1", "-2"))
        },
        "direct": curve(folder / "direct.jsonl", 200, 9, loss=(1.4, 0.5, 0.02)),
    }
    hashes = {
        name: f"{i + 10:02x}" * 32
        for i, name in enumerate(
            ("corpus", "tokenizer", "dataset", "pretrain", "sft", "distill", "dpo", "reward", "grpo")
        )
    }
    parents = {
        "tokenizer": ["corpus"],
        "dataset": ["corpus", "tokenizer"],
        "pretrain": ["dataset", "tokenizer"],
        "sft": ["pretrain"],
        "distill": ["sft"],
        "dpo": ["distill"],
        "reward": ["dpo"],
        "grpo": ["dpo"],
    }
    artifacts = {
        name: {
            "kind": {
                "corpus": "corpus",
                "tokenizer": "tokenizer",
                "dataset": "dataset",
                "reward": "reward_model",
            }.get(name, "model"),
            "hash": value,
            "parents": {role: hashes[role] for role in parents.get(name, [])},
            "path": f"models/{name}",
        }
        for name, value in hashes.items()
    }
    rules = {
        "exact_duplicate": {"count": 1204, "samples": [{"text": base}]},
        "near_duplicate": {"count": 830, "samples": [{"text": base.replace("河边", "河畔")}]},
        "promotion": {
            "count": 402,
            "samples": [
                {"text": "加微信 vx88888 领取优惠券，限时特价，点击链接立即抢购！！！"},
                {"text": HOSTILE},
            ],
        },
        "mojibake": {"count": 301, "samples": [{"text": "ÎÒÃÇÈ¥¹«Ô°Íæ¡£锟斤拷锟斤拷"}]},
        "page_furniture": {
            "count": 129,
            "samples": [{"text": "首页 > 新闻 > 正文　分享到：　上一篇　下一篇"}],
        },
    }
    extras = {
        "recipe_resolved": {
            "name": "demo",
            "seed": 1,
            "model": {"family": "qwen3", "hidden_size": 128, "num_hidden_layers": 4},
            "corpus": {"files": (), "dirt": 0.06},
            "description": {
                "zh": "在内置的“小世界”语料上，从原始文本到能对话、会思考的模型",
                "en": "From raw text to a model that talks and thinks, on the embedded tinyworld",
            },
        },
        "versions": {"python": "3.11.2", "hanlin": "0.1.0", "torch": "2.13.0", "numpy": "2.4.0"},
        "artifacts": artifacts,
        "curves": curves,
        "samples": samples,
        "tokens": {
            "vocab_size": 1536,
            "text": "翰林",
            "tokens": ["<E7>", "<BF>", "<B0>", "林", HOSTILE],
            "longest": ["我们", HOSTILE],
            "characters_per_token": 1.42,
        },
        "examples": {
            "sft": [
                {
                    "label": None,
                    "parts": [["<|im_start|>user\n你好", False], ["您好！", True], [HOSTILE, False]],
                }
            ],
            "dpo": [{"label": {"zh": "较好的", "en": "the better one"}, "parts": [["请坐", True]]}],
        },
        "corpus_page": "corpus/report.html",
        "drops": {
            "rules": rules,
            "lines": {"promotional_line": {"count": 77, "samples": [{"text": "扫码关注公众号"}]}},
            "sources": {},
        },
        "notes": {
            "corpus": {
                "documents": 45061,
                "bytes": 14_203_551,
                "seconds": {"clean": 7.93},
                "seconds_of_cleaning": {"sketch": 4.32},
                "heldout_documents": 600,
                "by_kind": {"广告": [480, 478], "乱码": [310, 310]},
                "dropped": {},
            },
            "pretrain": {"training_seconds": 240.1},
            "distill": {
                "before": {
                    "tinyworld/story_qa": share(441, 500).to_dict(),
                    "tinyworld/greetings": share(148, 150).to_dict(),
                }
            },
            "evaluation": {"pretrained_bits_per_byte": 0.412, "sampled": {"temperature": 0.7, "top_p": 0.9}},
            "sft": {
                "gate": {
                    "zh": "sft 已采用：tinyworld/story_qa 0.074 → 0.882。",
                    "en": "sft was kept: tinyworld/story_qa 0.074 → 0.882.",
                }
            },
            "grpo": {
                "gate": {
                    "zh": (
                        "grpo 未被采用：它使 tinyworld/story_qa 从 0.870 变为 0.804（容许 0.02）；"
                        "继续使用上一阶段的模型。"
                    ),
                    "en": (
                        "grpo was not kept: it took tinyworld/story_qa from 0.870 to 0.804 (allowed: 0.02); "
                        "the previous model stays."
                    ),
                },
                "seconds": {"grpo": [60.0, 61.0, 59.5], "sft": [60.0, 61.1, 59.6]},
                "curves": [
                    {"steps": 84, "mean_learning_rate": 0.0006},
                    {"steps": 80, "mean_learning_rate": 0.0006},
                    {"steps": 79, "mean_learning_rate": 0.0006},
                ],
                "by_seed": {"grpo": [0.904, 0.922, 0.894], "sft": [0.91, 0.932, 0.918]},
            },
            "gguf": {"file": "model.gguf", "bytes": 4_801_216},
        },
    }
    return as_current(report), extras  # as readers see it: a run of before, in today's names
