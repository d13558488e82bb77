"""Reward models: margin, the unit of their scores, what length explains, accuracy by source."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.model import load_reward_model
from hanlin.pipeline.stage_command import run_stage
from hanlin.rl.rewards.base import Sample
from hanlin.rl.rewards.reward_model import CALIBRATION, Calibration, ModelReward, score_answers
from hanlin.stages.pairs import PairSource, build_pair_dataset, pair_prompts, pairs_by_source
from hanlin.stages.reward_model import PairwiseRewardLoss, RewardConfig
from hanlin.tokenizer import load_tokenizer
from tests.adapters.bench import make_base, write_stage
from tests.support import tiny_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`rm`, a reward model, beside the `base` that it was made from."""
    folder = tmp_path_factory.mktemp("reward")
    make_base(folder)
    run_stage("reward_model", write_stage(folder, "reward_model", None), folder / "rm")
    return folder


def record(prompt: str, chosen: str, rejected: str, source: str) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "source": source}


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_the_margin_moves_the_difference_that_is_asked_for(made, margin):
    tokenizer = tiny_tokenizer(made / "words")
    pairs = [record(f"小明{n}？", "在学校。" * (n % 3 + 1), "12", "") for n in range(5)]
    data = build_pair_dataset(pairs, tokenizer, made / f"pairs{margin}", max_length=64)
    model = load_reward_model(made / "rm")
    config = RewardConfig(seq_len=64, pairs=5, centering=0.0, margin=margin)
    with torch.no_grad():
        loss, _ = PairwiseRewardLoss(config)(model, PairSource(data, config, 0).pack(range(5)))
        expected = 0.0
        for pair in range(5):
            sides = [
                torch.from_numpy(data.document(2 * pair + side).astype("int64"))[None] for side in (0, 1)
            ]
            chosen, rejected = (float(model(ids)[0, -1]) for ids in sides)
            expected += math.log1p(math.exp(rejected - chosen + margin))
    assert float(loss) == pytest.approx(expected, rel=1e-3)


def test_the_unit_is_that_of_the_answers_of_the_pairs(made):
    """Against a loop over the pairs themselves, and a least-squares line by numpy."""
    tokenizer, model = load_tokenizer(made / "rm"), load_reward_model(made / "rm")
    values, tokens = [], []
    for line in (made / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        for side in ("chosen", "rejected"):
            messages = [
                {"role": "user", "content": pair["prompt"]},
                {"role": "assistant", "content": pair[side]},
            ]
            ids, mask = tokenizer.encode_conversation(messages)
            with torch.no_grad():
                values.append(float(model(torch.tensor([ids]))[0, -1]))
            tokens.append(sum(mask))
    found = Calibration.read(made / "rm")
    assert found is not None and found.answers == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-4)
    assert found.sd == pytest.approx(np.std(values, ddof=1), rel=1e-3)
    assert found.mean_tokens == pytest.approx(np.mean(tokens))
    assert found.per_token == pytest.approx(np.polyfit(tokens, values, 1)[0], rel=1e-2, abs=1e-5)


def test_the_reward_is_calibrated_clipped_and_freed_of_length(made):
    samples = [Sample({}, [5, 6, 7], list(range(10, 10 + size)), "", False) for size in (1, 4, 9, 30)]
    model = load_reward_model(made / "rm")
    raw = score_answers(model, [(sample.prompt, sample.ids) for sample in samples])
    alone = [float(model(torch.tensor([[*s.prompt, *s.ids]]))[0, -1]) for s in samples]
    np.testing.assert_allclose(raw, alone, atol=1e-4)
    unit = Calibration.read(made / "rm")
    assert unit is not None

    def scored(**settings) -> np.ndarray:
        reward = ModelReward(source="rm", rows=3, **settings)
        reward.load(lambda name: made / name, "cpu")
        return np.array(reward.score(samples))

    np.testing.assert_allclose(scored(calibrated=False, scale=2.0), raw / 2, atol=1e-4)
    np.testing.assert_allclose(scored(clip=1e9), (raw - unit.mean) / unit.sd, atol=1e-3)
    assert np.abs(scored(clip=0.01)).max() == pytest.approx(0.01)
    sizes = np.array([1, 4, 9, 30])
    freed = (raw - unit.per_token * (sizes - unit.mean_tokens) - unit.mean) / unit.sd
    np.testing.assert_allclose(scored(clip=1e9, without_length=True), freed, atol=1e-3)


def test_scores_that_do_not_differ_have_no_unit():
    with pytest.raises(HanlinError, match="learnt nothing"):
        Calibration.of([0.3] * 8, range(8))
    with pytest.raises(HanlinError, match="not finite"):
        Calibration.of([0.3, float("nan")], [1, 2])


def test_a_model_without_a_unit_gives_its_raw_scores_and_cannot_be_freed_of_length(made, tmp_path):
    import shutil

    shutil.copytree(made / "rm", tmp_path / "rm")
    (tmp_path / "rm" / CALIBRATION).unlink()
    (tmp_path / "rm" / "manifest.json").unlink()  # as one of others has none
    sample = [Sample({}, [5, 6, 7], [8, 9], "", False)]
    plain = ModelReward(source="rm")
    plain.load(lambda name: tmp_path / name, "cpu")
    raw = dataclasses.replace(plain, calibrated=False)
    raw.load(lambda name: made / name, "cpu")
    assert plain.score(sample) == pytest.approx(raw.score(sample))
    with pytest.raises(HanlinError, match="length explains"):
        ModelReward(source="rm", without_length=True).load(lambda name: tmp_path / name, "cpu")
    (tmp_path / "rm" / CALIBRATION).write_text("{}", encoding="utf-8")
    with pytest.raises(HanlinError, match="damaged"):
        plain.load(lambda name: tmp_path / name, "cpu")


def test_pairs_know_their_sources_and_their_prompts(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path / "words")
    pairs = [
        record("甲？", "好。", "12", "one"),
        record("甲？", "不好。", "12", "one"),
        record("乙？", "好。", "12", "two"),
    ]
    data = build_pair_dataset(pairs, tokenizer, tmp_path / "pairs", max_length=64)
    found = {name: kept.tolist() for name, kept in pairs_by_source(data).items()}
    assert found == {
        "pair_accuracy": [0, 1, 2],
        "pair_accuracy/one": [0, 1],
        "pair_accuracy/two": [2],
    }
    first, second, third = pair_prompts(data)
    assert first == second != third
    alone = build_pair_dataset(pairs[:2], tokenizer, tmp_path / "alone", max_length=64)
    assert list(pairs_by_source(alone)) == ["pair_accuracy"]


def test_the_reward_of_an_answer_is_the_score_that_its_conversation_is_trained_with(made):
    tokenizer, model = load_tokenizer(made / "rm"), load_reward_model(made / "rm")
    talk = [{"role": "user", "content": "小明在吗？"}, {"role": "assistant", "content": "在学校。"}]
    whole = tokenizer.encode_conversation(talk)[0]
    prompt = tokenizer.encode_conversation(talk[:1], add_generation_prompt=True)[0]
    written = [*tokenizer.encode("在学校。"), tokenizer.im_end_id]
    assert whole[: len(prompt) + len(written)] == [*prompt, *written] and len(whole) > len(prompt) + len(
        written
    )
    reward = ModelReward(source="rm", calibrated=False)
    reward.load(lambda name: made / name, "cpu")
    with torch.no_grad():
        trained = float(model(torch.tensor([whole]))[0, -1])
    assert reward.score([Sample({}, prompt, written, "", False)]) == pytest.approx([trained], abs=1e-4)
