"""Planted faults, each of which the tests beside it must catch: a test suite is only as good as what it
notices.

Each fault is planted in the package as it is imported (`planted`), in a process of its own, and the named
tests must fail. Most of these faults once passed the whole suite.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """A file of the package, a text that occurs in it once, its replacement, and the tests that must
    notice."""

    file: str
    old: str
    new: str
    tests: str


STAGES, GATE, LOOP, STEP = (
    "tests/stages/test_stages.py",
    "tests/pipeline/test_gate.py",
    "tests/training/test_training.py",
    "tests/training/test_step.py",
)
PREFERENCE = "tests/stages/test_preference.py"
PAIRED = "tests/evaluation/test_paired.py"
DATA, ENGINE, TEXT, GGUF = (
    "tests/dataset/test_dataset.py",
    "tests/inference/test_engine.py",
    "tests/inference/test_text.py",
    "tests/export/test_gguf.py",
)

MUTANTS = {
    "labels shifted": Mutant(
        "dataset/packing.py", "ids, ids[1:], mask[1:])", "ids, ids[:-1], mask[:-1])", f"{DATA} {STAGES}"
    ),
    "positions not restarted": Mutant(
        "dataset/packing.py", "= np.arange(size)", "= np.arange(at, at + size)", f"{DATA} {LOOP} {STEP}"
    ),
    "no document mask": Mutant(
        "stages/supervised.py",
        "batch.attention_kwargs if self.document_mask else {}",
        "{}",
        f"{STAGES} {LOOP} {STEP}",
    ),
    "advantages over the batch": Mutant(
        "stages/grpo.py", "groups - groups.mean(1, keepdim=True), 0.0", "groups - groups.mean(), 0.0", STAGES
    ),
    "advantages over their deviation": Mutant(
        "stages/grpo.py",
        "groups - groups.mean(1, keepdim=True), 0.0",
        "(groups - groups.mean(1, keepdim=True)) / groups.std(), 0.0",
        STAGES,
    ),
    "advantages not centred": Mutant(
        "stages/grpo.py", "groups - groups.mean(1, keepdim=True), 0.0", "groups, 0.0", STAGES
    ),
    "no temperature in the log-probabilities": Mutant(
        "stages/grpo.py",
        "rows.gather_loss_tokens(rows.labels), self.config.temperature\n",
        "rows.gather_loss_tokens(rows.labels)\n",
        STAGES,
    ),
    "sign of the KL": Mutant(
        "stages/grpo.py", "loss + self.config.kl_coef * k3", "loss - self.config.kl_coef * k3", STAGES
    ),
    "DPO counts both sides": Mutant(
        "stages/preference/objective.py",
        "return len(batch.documents) / 2",
        "return float(len(batch.documents))",
        STAGES,
    ),
    "the reference is the policy": Mutant(
        "stages/preference/objective.py",
        "reference = self.reference.log_probs(batch)",
        "reference = policy.detach()",
        STAGES,
    ),
    "the cache of another model": Mutant(
        "stages/preference/reference.py",
        'hash_json(key)\n    path = folder / f"reference-{digest[:10]}"',
        'hash_json(None)\n    path = folder / f"reference-{digest[:10]}"',
        PREFERENCE,
    ),
    "z of the micro-batch": Mutant(
        "stages/preference/labelled.py",
        "self.numbers(step)])",
        "self.numbers(step)[:2]])",
        PREFERENCE,
    ),
    "z from the answers themselves": Mutant(
        "stages/preference/labelled.py",
        "[2 * row + 1 for row in self.numbers(step)]",
        "[2 * row for row in self.numbers(step)]",
        PREFERENCE,
    ),
    "the tail weighted by the own length": Mutant(
        "stages/preference/log_probs.py",
        "torch.minimum(lengths, lengths[partner])",
        "torch.minimum(lengths, lengths)",
        PREFERENCE,
    ),
    "harm vetoes nothing": Mutant(
        "pipeline/gate.py",
        "if not verdict.accepted or not lost:",
        "if True:",
        GATE,
    ),
    "centring of the difference": Mutant(
        "stages/reward_model.py", "(chosen + rejected).square()", "(chosen - rejected).square()", STAGES
    ),
    "WSD ends a step early": Mutant(
        "training/schedule.py", "remaining = steps - step\n", "remaining = steps - step - 1\n", LOOP
    ),
    "decay of embeddings": Mutant(
        "training/optim/optimizers.py",
        '"lr": learning_rate * embedding_scale, "weight_decay": 0.0}',
        '"lr": learning_rate * embedding_scale, "weight_decay": weight_decay}',
        f"{LOOP} {STEP}",
    ),
    "embedding_scale ignored": Mutant(
        "training/optim/optimizers.py",
        '"lr": learning_rate * embedding_scale,',
        '"lr": learning_rate,',
        f"{LOOP} {STEP}",
    ),
    "no clipping": Mutant(
        "training/distributed/strategy.py",
        "return nn.utils.clip_grad_norm_(model.parameters(), max_norm)",
        "return nn.utils.clip_grad_norm_(model.parameters(), 1e9)",
        f"{LOOP} {STEP}",
    ),
    "one seed for all rows": Mutant(
        "inference/sampling.py",
        "splitmix64((seed + (index + 1) * GOLDEN_GAMMA) & MASK64)",
        "splitmix64(seed & MASK64)",
        "tests/inference",
    ),
    "a neighbour's stop ids": Mutant(
        "inference/engine.py",
        "                self._limits,\n                self._stops,\n",
        "                self._limits,\n",
        ENGINE,
    ),
    "a character lost before a stop": Mutant(
        "inference/text.py", "return text[: min(found)]", "return text[: max(0, min(found) - 1)]", TEXT
    ),
    "GGUF ends with the document": Mutant(
        "export/gguf.py", "add_eos_token_id(tokenizer.im_end_id)", "add_eos_token_id(tokenizer.eos_id)", GGUF
    ),
    "GGUF of the wrong type": Mutant(
        "export/gguf.py", '"f16": kinds.MOSTLY_F16', '"f16": kinds.ALL_F32', GGUF
    ),
    "a rounded interval": Mutant(
        "evaluation/intervals.py",
        "half = z / (1 + zz / n)",
        "half = 0.8 * z / (1 + zz / n)",
        "tests/evaluation/test_statistics.py",
    ),
    "guards without Holm": Mutant(
        "evaluation/paired.py",
        "guards[at][0].upper(1 - part)",
        "guards[at][0].upper(1 - level)",
        PAIRED,
    ),
    "other items are paired": Mutant(
        "evaluation/item_scores.py",
        "bool(self.ids) and self.data == other.data and self.ids == other.ids",
        "len(self) == len(other)",
        PAIRED,
    ),
    "clusters drawn item by item": Mutant(
        "evaluation/item_scores.py",
        "numbers = cluster_numbers(self.clusters)",
        "numbers = None",
        PAIRED,
    ),
    "models that never differ are equal": Mutant(
        "evaluation/paired.py", "if gained + lost >= _FEW_DISCORDANT:", "if True:", PAIRED
    ),
    "what is undecided is refused": Mutant(
        "pipeline/gate.py", 'return self.outcome != "refused"', 'return self.outcome == "accepted"', GATE
    ),
    "a resumed stage has lost its items": Mutant(
        "pipeline/stage_run.py",
        'with_items(metrics, context.out, record.notes.get("scores") or {})',
        "metrics",
        GATE,
    ),
    "a refused model is published": Mutant(
        "pipeline/stage_run.py",
        'if self.is_control or self.stage.produces != "model" or not record.kept:',
        'if self.is_control or self.stage.produces != "model":',
        GATE,
    ),
    "a gate without regressions": Mutant(
        "pipeline/stage_run.py",
        "if name == target or name not in before or allowed is None:",
        "if True:",
        GATE,
    ),
    "the control sees the thinking": Mutant(
        "stages/data/base.py", 'if self.reasoning == "drop":', 'if self.reasoning == "dropped":', GATE
    ),
    "a control of equal time without a limit": Mutant(
        "pipeline/stage_run.py",
        "context.seconds[config.of][index] if config.equal_time else None",
        "None",
        GATE,
    ),
    "reinforcement judged by the mean of its seeds": Mutant(
        "pipeline/stage_run.py",
        "config.id, (target, metrics[target], before[target])",
        "config.id, (target, _together([self._target(i, target, after) for i in range(config.seeds)]), "
        "before[target])",
        GATE,
    ),
    "held out by the whole conversation": Mutant(
        "stages/data/base.py",
        "    if not isinstance(asked, str):",
        "    asked = repr(asked)\n    if not isinstance(asked, str):",
        "tests/pipeline/test_own_files.py -k held",
    ),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_caught(name):
    mutant = MUTANTS[name]
    files = [part for part in mutant.tests.split(" -k ")[0].split() if (ROOT / part).exists()]
    assert files, mutant.tests
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "tests.mutants.planted",
        "-p",
        "no:cacheprovider",
        *files,
    ]
    command += ["-k", mutant.tests.split(" -k ")[1]] if " -k " in mutant.tests else []
    environment = os.environ | {"HANLIN_PLANT": json.dumps(mutant[:3]), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    # 1: tests ran, and failed
    assert done.returncode == 1 and "FAILURES" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


def test_every_planted_fault_can_be_planted():
    for name, (file, old, new, _) in MUTANTS.items():
        source = (ROOT / "src" / "hanlin" / file).read_text(encoding="utf-8")
        assert source.count(old) == 1, (name, source.count(old))
        compile(source.replace(old, new), file, "exec")
