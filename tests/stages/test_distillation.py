"""Distillation: the loss against its formula, whose teacher may teach, and what the student learns."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.common.progress import Progress
from hanlin.dataset import ConversationRows, TokenDataset, build_conversation_dataset
from hanlin.model import load_model
from hanlin.model.divergences import DIVERGENCES
from hanlin.pipeline.stage_command import run_stage
from hanlin.stages.base import write_model
from hanlin.stages.distillation import DistillationLoss, TeacherConfig
from hanlin.stages.distillation_on_policy import OnPolicyDistillConfig, OwnAnswers
from hanlin.tokenizer import load_tokenizer
from hanlin.tokenizer.token_bytes import token_bytes
from tests.adapters.bench import STAGES, TALKS, make_base, write_stage
from tests.support import tiny_model, tiny_tokenizer

ROWS = {"batch_tokens": 256, "micro_tokens": 256}
ASKED = {"prompts": 3, "group_size": 2, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`base`, a student, and `teacher`, wider, of its tokenizer."""
    folder = tmp_path_factory.mktemp("distill")
    make_base(folder)
    tokenizer = load_tokenizer(folder / "base")
    model = tiny_model("qwen3", tokenizer, hidden_size=64, seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    write_model(folder / "teacher", model, tokenizer, parents={}, config=model.config, seed=0, metrics={})
    build_conversation_dataset(iter(TALKS), tokenizer, folder / "rows", max_length=64)
    return folder


def stage(folder, kind: str = "distill", adapter=None, **changes):
    """Its YAML; what `sft` has, or `rl`, stands in for what is not said."""
    shape = {"seq_len": 64} | (ROWS if kind == "distill" else ASKED)
    STAGES[kind] = shape
    try:
        return write_stage(folder, kind, adapter, **{"teacher": str(folder / "teacher"), **changes})
    finally:
        del STAGES[kind]


def models(folder):
    tokenizer = load_tokenizer(folder / "base")
    return tokenizer, load_model(folder / "base"), load_model(folder / "teacher")


def batch_of(folder, rows: int = 3):
    return ConversationRows(TokenDataset(folder / "rows"), 64, 0).batch(list(range(rows)))


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_loss_is_its_formula(made, kind, alpha):
    """Over each conversation alone, unpacked, with all logits at once."""
    tokenizer, student, teacher = models(made)
    config = TeacherConfig("t", kind, beta=0.2, temperature=1.7)
    loss = DistillationLoss(teacher, config, alpha, tokenizer.vocab_size, token_bytes(tokenizer), 0.0)
    batch = batch_of(made)
    found, figures = loss(student, batch)
    data, expected = TokenDataset(made / "rows"), 0.0
    for index in batch.documents:
        ids = torch.from_numpy(data.document(index).astype("int64"))[None]
        learnt = torch.from_numpy(data.mask[data.starts[index] : data.starts[index + 1]][1:].astype(bool))
        with torch.no_grad():
            logits, theirs = (m(ids)[0, :-1][learnt].double() for m in (student, teacher))
        p, q = ((x / 1.7).log_softmax(-1) for x in (theirs, logits))
        between = {"skew": 0.2 * p.exp() + 0.8 * q.exp(), "jsd": 0.2 * p.exp() + 0.8 * q.exp()}

        def kl(a, b):
            return float((a.exp() * (a - b)).sum())

        apart = {
            "forward": lambda: kl(p, q),  # noqa: B023
            "reverse": lambda: kl(q, p),  # noqa: B023
            "skew": lambda: kl(p, between["skew"].log()),  # noqa: B023
            "jsd": lambda: 0.2 * kl(p, between["jsd"].log()) + 0.8 * kl(q, between["jsd"].log()),  # noqa: B023
        }[kind]()
        entropy = torch.nn.functional.cross_entropy(logits, ids[0, 1:][learnt], reduction="sum")
        expected += (1 - alpha) * 1.7**2 * apart + alpha * float(entropy)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert loss.num_items(batch) == figures["divergence_count"] == batch.num_loss_tokens


def test_halves_of_a_batch_add_up_to_its_gradient(made):
    tokenizer, student, teacher = models(made)
    loss = DistillationLoss(teacher, TeacherConfig("t"), 0.5, tokenizer.vocab_size, token_bytes(tokenizer))
    whole = batch_of(made, 4)

    def gradients(batches):
        model = copy.deepcopy(student).requires_grad_(True)
        for batch in batches:
            loss(model, batch)[0].backward()
        return [p.grad for p in model.parameters() if p.grad is not None], sum(map(loss.num_items, batches))

    (one, count), (two, halves) = gradients([whole]), gradients(whole.split())
    assert count == halves and len(whole.split()) == 2
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["distill", "on_policy_distill"])
@pytest.mark.parametrize("adapter", [None, {"kind": "lora", "r": 4}])
def test_a_stage_comes_nearer_to_its_teacher(made, tmp_path, kind, adapter):
    train = {"steps": 25, "learning_rate": 1e-2, "muon": False, "checkpoint_seconds": 1e9}
    more = {"alpha": 0.0, "text_share": 0.0} if kind == "distill" else {}
    path = stage(made, kind, adapter, train=train, **more)
    run_stage(kind, path, tmp_path / "out")
    log = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").open(encoding="utf-8")]
    curve = [line["divergence"] for line in log if "divergence" in line]
    assert sum(curve[-3:]) < (0.95 if kind == "distill" else 0.99) * sum(curve[:3])
    again = run_stage(kind, path, tmp_path / "again")
    assert again["loss"] == pytest.approx(log[-1]["loss"], abs=1e-6)


def test_a_teacher_with_another_tokenizer_is_refused(made, tmp_path):
    other = tiny_tokenizer(tmp_path / "words", 420)
    model = tiny_model("qwen3", other)
    write_model(tmp_path / "other", model, other, parents={}, config=model.config, seed=0, metrics={})
    for kind in ("distill", "on_policy_distill"):
        with pytest.raises(HanlinError, match="another tokenizer"):
            run_stage(kind, stage(made, kind, teacher=str(tmp_path / "other")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_teach_is_refused(made, tmp_path):
    tokenizer = load_tokenizer(made / "base")
    short = tiny_model("qwen3", tokenizer, max_position_embeddings=32)
    write_model(tmp_path / "short", short, tokenizer, parents={}, config=short.config, seed=0, metrics={})
    with pytest.raises(HanlinError, match="knows 32 positions"):
        run_stage("distill", stage(made, teacher=str(tmp_path / "short")), tmp_path / "out")
    with pytest.raises(HanlinError, match="no model's directory"):
        run_stage("distill", stage(made, teacher="nobody"), tmp_path / "out")
    with pytest.raises(HanlinError, match="names no teacher"):
        run_stage("distill", stage(made, teacher=""), tmp_path / "out")
    with pytest.raises(HanlinError, match="asks the teacher nothing"):
        run_stage("distill", stage(made, alpha=1.0), tmp_path / "out")


def test_another_teacher_is_another_result(made, tmp_path):
    tokenizer = load_tokenizer(made / "base")
    train = {"steps": 2, "learning_rate": 1e-2, "muon": False}
    for seed in (1, 2):
        model = tiny_model("qwen3", tokenizer, hidden_size=64, seed=seed)
        write_model(tmp_path / "t", model, tokenizer, parents={}, config=model.config, seed=seed, metrics={})
        path = stage(made, teacher=str(tmp_path / "t"), train=train)
        run_stage("distill", path, tmp_path / f"out{seed}")
        run_stage("distill", path, tmp_path / "same")
    weights = [load_model(tmp_path / name).state_dict() for name in ("out1", "out2", "same")]
    name = next(iter(weights[0]))
    assert not torch.equal(weights[0][name], weights[1][name]) and torch.equal(
        weights[1][name], weights[2][name]
    )


def test_what_is_written_is_learnt_and_the_prompt_is_not(made):
    tokenizer, student, _ = models(made)
    config = OnPolicyDistillConfig(teacher="t", seq_len=64, **ASKED)
    source = OwnAnswers(TALKS, tokenizer, config, 0, Progress())
    (batch,) = source.micro_batches(0, student)
    (same,) = source.micro_batches(0, student)
    assert torch.equal(batch.ids, same.ids)
    wanted = source.metrics()["answer_length"]
    assert batch.num_loss_tokens == wanted and source.metrics()["answer_length_count"] == 6
