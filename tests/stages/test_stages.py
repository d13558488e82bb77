"""The stages' objectives against their formulas and against their rivals."""

from __future__ import annotations

import copy
import json
import math
import random
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.dataset import IGNORE_INDEX
from hanlin.model import RewardModel, load_reward_model
from hanlin.rl.rewards.numeric import numeric_answer, reference_number, stated_numbers
from hanlin.stages import base as job_module
from hanlin.stages.base import Job, write_model
from hanlin.stages.grpo import GRPOConfig, GRPOLoss, RolloutSource, grpo
from hanlin.stages.pairs import PairConfig, PairSource, build_pair_dataset, split_pairs
from hanlin.stages.preference.objective import PairObjective
from hanlin.stages.preference.stage import PreferenceConfig, optimise_preferences
from hanlin.stages.reward_model import PairwiseRewardLoss, RewardConfig, reward, score_pairs, scores
from hanlin.stages.supervised import SupervisedConfig, finetune
from hanlin.training import TrainConfig
from hanlin.training.contract import config_hash
from tests.support import ReferenceModel, tiny_model, tiny_tokenizer

PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"小明{n}在学校吗？"}],
        "chosen": "小明在学校。" * (1 + n % 3),
        "rejected": "12345" * (1 + n % 2),
    }
    for n in range(24)
]


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
    config = PreferenceConfig(seq_len=128, pairs=5, beta=0.7, sft_weight=0.3, length_normalized=normalized)
    loss, figures = PairObjective(config.loss, ReferenceModel(reference))(
        model, PairSource(data, config, 0).pack(range(5))
    )
    expected, right = 0.0, 0
    with torch.no_grad():
        for pair in PAIRS[:5]:
            delta = []
            for side in ("chosen", "rejected"):
                ids, mask = tokenizer.encode_conversation(
                    [*pair["prompt"], {"role": "assistant", "content": pair[side]}]
                )
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
    config = PreferenceConfig(seq_len=128, pairs=4, sft_weight=0.0)
    loss, _ = PairObjective(config.loss, ReferenceModel(copy.deepcopy(model)))(
        model, PairSource(data, config, 0).pack(range(4))
    )
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


def test_a_pair_is_judged_by_its_answers_alone(world, tmp_path):
    """What the assistant said earlier in the prompt is on both sides, but not of the answers' length."""
    _, tokenizer, _, _ = world
    prompt = [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好，小明。"},
        {"role": "user", "content": "学校呢？"},
    ]
    data = build_pair_dataset(
        [{"prompt": prompt, "chosen": "在学校。", "rejected": "不知道"}],
        tokenizer,
        tmp_path / "d",
        max_length=128,
    )
    learnt = [
        tokenizer.decode(data.tokens[a:b][data.mask[a:b] == 1].tolist())
        for a, b in zip(data.starts, data.starts[1:], strict=False)
    ]
    assert learnt == ["在学校。<|im_end|>", "不知道<|im_end|>"]


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
    config = PreferenceConfig(
        seq_len=128, pairs=8, train=TrainConfig(steps=15, learning_rate=1e-3, muon=False)
    )
    result = optimise_preferences(folder / "model", data.path, config, job(tmp_path, "dpo"))
    assert result.last["accuracy"] > 0.9


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_policy_gradient_is_its_formula(world, temperature):
    """Rewards by record and text, of means that differ between the groups; the answers to one record all
    earn the same."""
    _, tokenizer, model, _ = world
    config = GRPOConfig(
        seq_len=128, prompts=4, group_size=4, max_new_tokens=8, kl_coef=0.5, temperature=temperature
    )
    records = [{"messages": [{"role": "user", "content": f"{n}加1等于几？"}], "scale": n} for n in range(4)]
    earned: dict[int, list[float]] = {}

    def reward_of(record, text, opened):
        value = float(record["scale"] * len(text))
        earned.setdefault(record["scale"], []).append(value)
        return value

    (batch,) = RolloutSource(records, reward_of, tokenizer, config, seed=0).micro_batches(0, model)
    assert len(earned) == 4 and all(len(values) == 4 for values in earned.values())
    reference = tiny_model("qwen3", tokenizer, seed=4)
    loss, figures = GRPOLoss(config, reference)(model, batch)
    expected, seen = 0.0, set()
    with torch.no_grad():
        for owner, record in enumerate(batch.rows.documents):
            place = batch.rows.doc_ids == owner
            ids, labels = batch.rows.ids[place].tolist(), batch.rows.labels[place]
            text = tokenizer.decode([label for label in labels.tolist() if label != IGNORE_INDEX])
            advantage = record * len(text) - sum(earned[record]) / 4
            seen.add(round(advantage, 3))
            now, before = (
                torch.log_softmax(m(torch.tensor([ids]))[0] / temperature, -1) for m in (model, reference)
            )
            for i, label in enumerate(labels.tolist()):
                if label != IGNORE_INDEX:
                    d = before[i, label] - now[i, label]
                    expected += -advantage * now[i, label] + 0.5 * (d.exp() - d - 1)
    assert len(seen) > 3, seen
    assert loss.item() == pytest.approx(float(expected), rel=1e-3, abs=1e-3)
    assert figures["kl"] >= 0


def test_the_policy_loss_is_divided_by_a_constant(world):
    """P·G·L_max, however many answers are left out because their groups agree."""
    _, tokenizer, model, _ = world
    config = GRPOConfig(seq_len=128, prompts=4, group_size=4, max_new_tokens=8)
    records = [
        {"messages": [{"role": "user", "content": f"{n}加1等于几？"}], "scale": n % 2} for n in range(4)
    ]
    (batch,) = RolloutSource(
        records, lambda record, text, opened: float(record["scale"] * len(text)), tokenizer, config, seed=0
    ).micro_batches(0, model)
    assert 0 < len(batch.documents) <= 8
    assert GRPOLoss(config, None).num_items(batch) == 4 * 4 * 8


def test_the_loss_of_dpo_is_a_mean_over_pairs(world, tmp_path):
    """A model against itself has log 2 a pair, whichever way the loop divides."""
    folder, _, _, data = world
    config = PreferenceConfig(seq_len=128, pairs=8, sft_weight=0.0, train=TrainConfig(steps=1, muon=False))
    assert optimise_preferences(folder / "model", data.path, config, job(tmp_path, "dpo")).last[
        "loss"
    ] == pytest.approx(0.6931, abs=1e-3)


def test_the_reward_models_loss_is_its_formula(world):
    """-log σ(c - r) + centring · (c + r)², summed over pairs; the weight is their number."""
    _, tokenizer, trunk, data = world
    model = RewardModel(trunk.config).eval()
    model.model.load_state_dict(trunk.model.state_dict())
    with torch.no_grad():
        model.score.weight.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    config = RewardConfig(seq_len=128, pairs=5, centering=0.3)
    batch = PairSource(data, config, 0).pack(range(5))
    objective = PairwiseRewardLoss(config)
    with torch.no_grad():
        loss, figures = objective(model, batch)
        expected = 0.0
        for pair in range(5):
            chosen, rejected = (
                float(model(torch.tensor([data.document(d).astype("int64").tolist()]))[0, -1])
                for d in (2 * pair, 2 * pair + 1)
            )
            assert abs(chosen - rejected) > 1e-3 and abs(chosen + rejected) > 1e-3
            expected += math.log1p(math.exp(rejected - chosen)) + 0.3 * (chosen + rejected) ** 2
    assert (
        float(loss) == pytest.approx(expected, rel=1e-3)
        and objective.num_items(batch) == 5
        and figures["accuracy_count"] == 5
    )


def test_groups_that_agree_teach_nothing(world):
    _, tokenizer, model, _ = world
    config = GRPOConfig(seq_len=128, prompts=2, group_size=3, max_new_tokens=6)
    records = [{"messages": [{"role": "user", "content": "1加1等于几？"}], "answer": 2}]
    for value in (1.0, 0.1):  # in float32, the mean of three 0.1 is not 0.1
        source = RolloutSource(
            records, lambda record, text, opened, value=value: value, tokenizer, config, seed=0
        )
        (batch,) = source.micro_batches(0, model)
        assert len(batch.ids) == 0 and batch.documents == []
        assert GRPOLoss(config, None).num_items(batch) == 2 * 3 * 6  # they count in the constant all the same
        metrics = source.metrics()
        assert metrics["reward"] / metrics["reward_count"] == pytest.approx(value)


def test_a_step_in_which_no_group_disagrees_changes_nothing_and_is_counted(world, tmp_path):
    """The rewards differ in steps 2 and 3 only: before them not even weight decay acts, and after them
    momentum does not."""
    folder, _, model, _ = world
    records = [{"messages": [{"role": "user", "content": "说一个字。"}]}]
    calls = []

    def reward_of(record, text, opened):
        calls.append(text)
        return float(len(calls) % 4) if (len(calls) - 1) // 8 in (2, 3) else 0.1

    states = []

    class Watching(Progress):
        def update(self, step, steps, figures):
            states.append(
                (
                    figures.get("idle", 0.0),
                    {name: value.clone() for name, value in watched.state_dict().items()},
                )
            )

    job_of = Job(tmp_path / "out", tmp_path / "work", Watching(), seed=0)
    watched = None
    inner = job_module.train

    def train(model, *arguments, **options):
        nonlocal watched
        watched = model
        return inner(model, *arguments, **options)

    config = GRPOConfig(
        seq_len=64,
        prompts=2,
        group_size=4,
        max_new_tokens=4,
        train=TrainConfig(
            steps=6,
            learning_rate=1e-2,
            weight_decay=0.1,
            warmup_ratio=0.0,
            muon=False,
            checkpoint_seconds=0.0,
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "train", train)
        result = grpo(folder / "model", records, reward_of, config, job_of)
    before = model.state_dict()
    changed = []
    for _, after in states:
        changed.append(any(not torch.equal(after[name], before[name]) for name in after))
        before = after
    assert [bool(idle) for idle, _ in states] == [True, True, False, False, True, True]
    assert changed == [False, False, True, True, False, False]
    assert result.idle == read_manifest(tmp_path / "out").metrics["idle"] == 4
    state = json.loads((tmp_path / "work" / "step-00000005" / "state.json").read_text())
    # the guard judges by losses of steps that had some
    assert state["idle"] == 3 and state["guard"]["count"] == 2


def test_rollouts_depend_on_step_and_seed_alone(world):
    _, tokenizer, model, _ = world
    config = GRPOConfig(seq_len=128, prompts=2, group_size=3, max_new_tokens=6)
    records = [{"messages": [{"role": "user", "content": f"{n}加1等于几？"}], "answer": n} for n in range(4)]
    first, again, other = (
        RolloutSource(
            records, lambda r, t, opened: float(len(t) % 2), tokenizer, config, seed=0
        ).micro_batches(s, model)[0]
        for s in (1, 1, 2)
    )
    assert torch.equal(first.rows.ids, again.rows.ids) and torch.equal(first.advantages, again.advantages)
    assert first.rows.ids.shape != other.rows.ids.shape or not torch.equal(first.rows.ids, other.rows.ids)


def test_grpo_finds_what_is_rewarded(world, tmp_path):
    """Rewarded for one character that a random model writes now and then, the model learns to write it."""
    folder, tokenizer, _, _ = world
    records = [{"messages": [{"role": "user", "content": "说一个字。"}], "answer": 0}]
    config = GRPOConfig(
        seq_len=64,
        prompts=4,
        group_size=8,
        max_new_tokens=4,
        train=TrainConfig(steps=25, learning_rate=3e-3, muon=False),
    )
    grpo(
        folder / "model",
        records,
        lambda record, text, opened: float("小" in text),
        config,
        job(tmp_path, "grpo"),
    )
    rewards = [
        json.loads(line)["reward"] for line in (tmp_path / "work" / "metrics.jsonl").read_text().splitlines()
    ]
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
        ("36，37", 0.0),
        ("37，36", 0.0),
        ("</think>37<think>", 0.0),
    ],
)
def test_the_numeric_reward_cannot_be_gamed(text, value):
    assert numeric_answer({"answer": 37}, text) == value


@pytest.mark.parametrize("text", ["胡说</think>37", "<think>胡说</think></think>37"])
def test_a_thought_that_nobody_opened_earns_nothing(text):
    assert numeric_answer({"answer": 37}, text, opened=False) == 0.0


def test_a_thought_that_the_prompt_opened_must_be_closed_once():
    said = ["胡说</think>37", "37", "<think>胡说</think>37", "胡说</think></think>37"]
    assert [numeric_answer({"answer": 37}, text, opened=True) for text in said] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "answer,right,wrong",
    [
        ("15/2", ["15/2", "7.5", "7½", "7又1/2", "7 1/2", "是30/4。"], ["15", "2", "15.2", "7"]),
        ("12%", ["12%", "0.12", "１２％", "百分之12", "3/25"], ["12", "1.2%"]),
        (12, ["12", "12.0", "+12"], ["12%", "-12", "12,000"]),
        ("1,200", ["1200", "1,200", "1,200.00", "答案是１２００"], ["1", "200", "1，200", "1, 200"]),
        (1200, ["答案是1,200"], ["1,20", "1,2000"]),
        ("3又1/2", ["3.5", "7/2"], ["31/2", "3"]),
        ("½", ["0.5", "1/2", "50%"], ["1", "2"]),
        ("-3.5", ["-3.5", "−3.5", "负3.5", "-7/2"], ["3.5", "5-3.5"]),
        (0.1, ["0.1", ".1", "10%"], ["0.1000001"]),
        ("５", ["5", "٥"], ["5²", "√5", "5π", "5^2", "5!"]),
        (52, ["52"], ["5²"]),
        (7, ["7", "7元7角"], ["7/0", "7/1/1", "9" * 5000]),
    ],
)
def test_one_reader_of_numbers_serves_reference_and_answer(answer, right, wrong):
    assert [text for text in right if numeric_answer({"answer": answer}, text) != 1.0] == []
    assert [text for text in wrong if numeric_answer({"answer": answer}, text) != 0.0] == []


@pytest.mark.parametrize(
    "answer",
    [
        "5²",
        "√2",
        "2x",
        "A",
        "",
        "1/0",
        "12元",
        "1,20",
        "(1) 5",
        None,
        True,
        float("nan"),
        float("inf"),
        [3],
        "9" * 400,
    ],
)
def test_what_is_no_number_cannot_be_judged(answer):
    assert not numeric_answer.can_judge({"answer": answer})
    assert numeric_answer({"answer": answer}, "5") == 0.0


def test_every_whole_number_and_fraction_is_read_back():
    rng = random.Random(7)
    for _ in range(300):
        top, bottom = rng.randrange(-(10**9), 10**9), rng.randrange(1, 1000)
        assert stated_numbers(f"得{top}。") == stated_numbers(f"得{top:,}。") == [Fraction(top)]
        assert stated_numbers(f"{top}/{bottom}") == [Fraction(top, bottom)]
        assert reference_number(f"{top}/{bottom}") == Fraction(top, bottom)


class Heard(Progress):
    """Remembers what it was told."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, message, /, **fields) -> None:
        text = Text.of(message, **fields)
        assert text.zh and text.en
        self.warnings.append(text.en)


def test_problems_that_cannot_be_judged_or_do_not_fit_are_left_out_before_the_first_step(world, tmp_path):
    folder, tokenizer, _, _ = world
    answers = [3, "15/2", "两个", "5²", 4]
    records = [
        {"messages": [{"role": "user", "content": f"{n}加1等于几？"}], "answer": answer}
        for n, answer in enumerate(answers)
    ]
    records.append({"messages": [{"role": "user", "content": "学校" * 60}], "answer": 1})
    config = GRPOConfig(
        seq_len=64, prompts=4, group_size=2, max_new_tokens=6, train=TrainConfig(steps=3, muon=False)
    )
    heard = Heard()
    grpo(
        folder / "model",
        records,
        numeric_answer,
        config,
        Job(tmp_path / "out", tmp_path / "work", heard, seed=0),
    )
    metrics = read_manifest(tmp_path / "out").metrics
    assert (metrics["problems"], metrics["left_out"]) == (3, 3)
    judged, long = heard.warnings
    assert "2 of 6" in judged and "两个" in judged and "1 of 4" in long and "学校" in long


@pytest.mark.parametrize(
    "content,answer,why", [("1加1等于几？", "两个", "number"), ("学校" * 60, 1, "seq_len")]
)
def test_grpo_without_a_usable_problem_is_refused(world, content, answer, why):
    _, tokenizer, _, _ = world
    config = GRPOConfig(seq_len=64, prompts=1, group_size=2, max_new_tokens=6)
    with pytest.raises(HanlinError) as caught:
        RolloutSource(
            [{"messages": [{"role": "user", "content": content}], "answer": answer}],
            numeric_answer,
            tokenizer,
            config,
            seed=0,
        )
    assert why in caught.value.en and caught.value.zh


@pytest.mark.parametrize("thinking", [None, True, False])
def test_the_reward_is_told_whether_the_prompt_opened_a_thought(world, thinking):
    _, tokenizer, model, _ = world
    told = []
    config = GRPOConfig(seq_len=64, prompts=1, group_size=2, max_new_tokens=2, thinking=thinking)
    source = RolloutSource(
        [{"messages": [{"role": "user", "content": "你好"}]}],
        lambda record, text, opened: float(told.append(opened) or 0),
        tokenizer,
        config,
        seed=0,
    )
    source.micro_batches(0, model)
    assert told == [thinking is True] * 2


def test_corrected_answers_make_another_run(world):
    _, tokenizer, _, _ = world
    config = GRPOConfig(seq_len=64, prompts=1, group_size=2, max_new_tokens=2)
    one, other = (
        RolloutSource(
            [{"messages": [{"role": "user", "content": "你好"}], "answer": n}],
            numeric_answer,
            tokenizer,
            config,
            seed=0,
        )
        for n in (1, 2)
    )
    assert config_hash(one.identity()) != config_hash(other.identity())


def test_rows_longer_than_the_model_are_refused(world, tmp_path):
    folder, _, _, data = world
    config = SupervisedConfig(seq_len=512, batch_tokens=512, micro_tokens=512)
    with pytest.raises(HanlinError, match="max_position_embeddings"):
        finetune(folder / "model", data.path, config, job(tmp_path, "out"))
    assert not (tmp_path / "out").exists()


def test_a_batch_of_pairs_stays_one_on_its_device_and_can_still_be_cut(world):
    _, _, _, data = world
    batch = PairSource(data, PreferenceConfig(seq_len=128, pairs=4), 0).pack(range(4))
    moved = batch.to(torch.device("meta"))
    assert type(moved) is type(batch) and moved.pairs == [0, 1, 2, 3] and moved.ids.device.type == "meta"
    assert [half.documents for half in moved.split()] == [half.documents for half in batch.split()]
    assert all(
        set(half.documents) == {2 * pair + side for pair in half.pairs for side in (0, 1)}
        for half in moved.split()
    )
