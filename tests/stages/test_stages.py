"""The stages' objectives against their formulas and against their rivals."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F

from hanlin.common.errors import HanlinError
from hanlin.common.progress import Progress
from hanlin.dataset import IGNORE
from hanlin.model import load_reward_model
from hanlin.stages.dpo import DPOConfig, DPOLoss, dpo
from hanlin.stages.grpo import GRPOConfig, PolicyGradient, RolloutSource, grpo
from hanlin.stages.job import Job, write_model
from hanlin.stages.pairs import PairConfig, PairSource, build_pair_dataset, split_pairs
from hanlin.stages.reward import RewardConfig, reward, score_pairs, scores
from hanlin.stages.rewards import numeric_answer
from hanlin.stages.supervised import SupervisedConfig, finetune
from hanlin.training import TrainConfig
from tests.support import tiny_model, tiny_tokenizer

PAIRS = [{"prompt": [{"role": "user", "content": f"小明{n}在学校吗？"}], "chosen": "小明在学校。" * (1 + n % 3), "rejected": "12345" * (1 + n % 2)} for n in range(24)]


def job(folder, name: str) -> Job:
    """A stage's surroundings."""
    return Job(folder / name, folder / "work", Progress(), seed=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tokenizer, a model directory and a dataset of pairs."""
    folder = tmp_path_factory.mktemp("world")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    model = tiny_model("qwen3", tokenizer)
    write_model(folder / "model", model, tokenizer, parents={}, config=model.config, seed=0, metrics={})
    data = build_pair_dataset(PAIRS, tokenizer, folder / "pairs", max_length=128)
    return folder, tokenizer, model, data


def log_prob(model, ids, mask):
    """log π of the masked tokens of one conversation, the slow way; and their number."""
    logits = torch.log_softmax(model(torch.tensor([ids])).double()[0, :-1], -1)
    chosen = [(i, ids[i + 1]) for i in range(len(ids) - 1) if mask[i + 1]]
    return sum(logits[i, token] for i, token in chosen), len(chosen)


@pytest.mark.parametrize("normalized", [True, False])
def test_dpo_loss_is_its_formula(world, normalized):
    _, tokenizer, model, data = world
    reference = tiny_model("qwen3", tokenizer, seed=9)
    config = DPOConfig(seq_len=128, pairs=5, beta=0.7, sft_weight=0.3, length_normalized=normalized)
    loss, figures = DPOLoss(reference, config)(model, PairSource(data, config, 0).pack(range(5)))
    expected, right = 0.0, 0
    with torch.no_grad():
        for pair in PAIRS[:5]:
            delta = []
            for side in ("chosen", "rejected"):
                ids, mask = tokenizer.encode_conversation([*pair["prompt"], {"role": "assistant", "content": pair[side]}])
                (ours, count), (theirs, _) = log_prob(model, ids, mask), log_prob(reference, ids, mask)
                delta.append((ours - theirs) / (count if normalized else 1))
                if side == "chosen":
                    anchor = -ours / count
            expected += -F.logsigmoid(0.7 * (delta[0] - delta[1])) + 0.3 * anchor
            right += int(delta[0] > delta[1])
    assert loss.item() == pytest.approx(float(expected), rel=1e-4)
    assert figures["accuracy"] == right


def test_dpo_of_a_model_against_itself_has_no_preference(world):
    _, _, model, data = world
    config = DPOConfig(seq_len=128, pairs=4, sft_weight=0.0)
    loss, _ = DPOLoss(copy.deepcopy(model), config)(model, PairSource(data, config, 0).pack(range(4)))
    assert float(loss) / 4 == pytest.approx(0.6931, abs=1e-3)


def test_pairs_stay_together_and_in_order(world):
    _, _, _, data = world
    source = PairSource(data, PairConfig(seq_len=128, pairs=6), seed=1)
    seen = []
    for step in range(4):
        (batch,) = source.micro_batches(step, None)
        values = torch.tensor([float(d) for d in batch.documents])
        chosen, rejected = split_pairs(values, batch)
        assert torch.equal(chosen + 1, rejected) and (chosen % 2 == 0).all()
        seen += chosen.tolist()
    assert sorted(seen) == [2.0 * i for i in range(24)]


def test_scores_are_read_at_the_last_token(world, tmp_path):
    folder, tokenizer, _, data = world
    config = RewardConfig(seq_len=128, pairs=4, train=TrainConfig(steps=2, muon=False))
    reward(folder / "model", data.path, config, job(tmp_path, "rm"))
    model = load_reward_model(tmp_path / "rm")
    batch = PairSource(data, config, 0).pack(range(4))
    packed = scores(model, batch)
    for owner, document in enumerate(batch.documents):
        alone = model(torch.tensor([data.document(document).astype("int64").tolist()]))[0, -1]
        assert float(packed[owner]) == pytest.approx(float(alone), abs=1e-4)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    ids = torch.tensor([data.document(0).astype("int64").tolist()])
    assert float(theirs(ids).logits) == pytest.approx(float(model(ids)[0, -1]), abs=1e-4)


def test_a_reward_model_learns_an_easy_preference(world, tmp_path):
    folder, _, _, data = world
    config = RewardConfig(seq_len=128, pairs=8, train=TrainConfig(steps=30, learning_rate=3e-3, muon=False))
    reward(folder / "model", data.path, config, job(tmp_path, "rm"))
    chosen, rejected = score_pairs(load_reward_model(tmp_path / "rm"), data, config)
    assert (chosen > rejected).mean() > 0.9


def test_dpo_raises_the_preferred_answer(world, tmp_path):
    folder, _, _, data = world
    config = DPOConfig(seq_len=128, pairs=8, train=TrainConfig(steps=15, learning_rate=1e-3, muon=False))
    result = dpo(folder / "model", data.path, config, job(tmp_path, "dpo"))
    assert result.last["accuracy"] > 0.9


def test_policy_gradient_is_its_formula(world):
    _, tokenizer, model, _ = world
    config = GRPOConfig(seq_len=128, prompts=3, group_size=4, max_new_tokens=8, kl_coef=0.5)
    records = [{"messages": [{"role": "user", "content": f"{n}加1等于几？"}], "answer": n + 1} for n in range(5)]
    noisy = RolloutSource(records, lambda record, text: float(len(text) % 3), tokenizer, config, seed=0)
    (batch,) = noisy.micro_batches(0, model)
    reference = tiny_model("qwen3", tokenizer, seed=4)
    loss, figures = PolicyGradient(config, reference)(model, batch)
    expected = 0.0
    with torch.no_grad():
        for owner in range(len(batch.rows.documents)):
            place = batch.rows.doc_ids == owner
            ids, labels = batch.rows.ids[place].tolist(), batch.rows.labels[place]
            now, before = (torch.log_softmax(m(torch.tensor([ids]))[0], -1) for m in (model, reference))
            for i, label in enumerate(labels.tolist()):
                if label != IGNORE:
                    d = before[i, label] - now[i, label]
                    expected += -batch.advantages[owner] * now[i, label] + 0.5 * (d.exp() - d - 1)
    assert loss.item() == pytest.approx(float(expected), rel=1e-3, abs=1e-3)
    assert figures["kl"] >= 0


def test_groups_that_agree_teach_nothing(world):
    _, tokenizer, model, _ = world
    config = GRPOConfig(seq_len=128, prompts=2, group_size=3, max_new_tokens=6)
    records = [{"messages": [{"role": "user", "content": "1加1等于几？"}], "answer": 2}]
    (batch,) = RolloutSource(records, lambda record, text: 1.0, tokenizer, config, seed=0).micro_batches(0, model)
    loss, _ = PolicyGradient(config, None)(model, batch)
    assert float(loss) == 0.0 and batch.reward == 1.0


def test_rollouts_depend_on_step_and_seed_alone(world):
    _, tokenizer, model, _ = world
    config = GRPOConfig(seq_len=128, prompts=2, group_size=3, max_new_tokens=6)
    records = [{"messages": [{"role": "user", "content": f"{n}加1等于几？"}], "answer": n} for n in range(4)]
    first, again, other = (RolloutSource(records, lambda r, t: float(len(t) % 2), tokenizer, config, seed=0).micro_batches(s, model)[0] for s in (1, 1, 2))
    assert torch.equal(first.rows.ids, again.rows.ids) and torch.equal(first.advantages, again.advantages)
    assert first.rows.ids.shape != other.rows.ids.shape or not torch.equal(first.rows.ids, other.rows.ids)


def test_grpo_finds_what_is_rewarded(world, tmp_path):
    """Rewarded for one character that a random model writes now and then, the model learns to write it."""
    folder, tokenizer, _, _ = world
    records = [{"messages": [{"role": "user", "content": "说一个字。"}], "answer": 0}]
    config = GRPOConfig(seq_len=64, prompts=4, group_size=8, max_new_tokens=4, train=TrainConfig(steps=25, learning_rate=3e-3, muon=False))
    grpo(folder / "model", records, lambda record, text: float("小" in text), config, job(tmp_path, "grpo"))
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "work" / "metrics.jsonl").read_text().splitlines()]
    assert len(rewards) == 25
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3, rewards


@pytest.mark.parametrize(
    "text,value",
    [
        ("答案是37。", 1.0),
        ("<think>\n17-8=9\n</think>\n\n答案是３７。<|im_end|>", 1.0),
        ("17-8=9\n</think>\n\n答案是37。", 1.0),  # <think> stood in the prompt
        ("答案是36。", 0.0),
        ("36 37 38", 0.0),
        ("<think>\n37\n", 0.0),
        ("<think>37</think><think>37</think>37", 0.0),
        ("<think>37</think>", 0.0),
        ("", 0.0),
        ("9**9**9", 0.0),
    ],
)
def test_the_numeric_reward_cannot_be_gamed(text, value):
    assert numeric_answer({"answer": 37}, text) == value


def test_rows_longer_than_the_model_are_refused(world, tmp_path):
    folder, _, _, data = world
    config = SupervisedConfig(seq_len=512, batch_tokens=512, micro_tokens=512)
    with pytest.raises(HanlinError, match="max_position_embeddings"):
        finetune(folder / "model", data.path, config, job(tmp_path, "out"))
    assert not (tmp_path / "out").exists()
