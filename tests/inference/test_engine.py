"""The engine: batching, prefill groups, compaction and cancelling change nothing that a row says."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.inference import Engine, Generation, SamplingParams, derive_seed
from tests.inference.tiny import random_prompts, tiny_model

FAMILIES = {
    "qwen3": {},
    "llama": {"family": "llama"},
    "gpt2": {"family": "gpt2", "num_key_value_heads": None},
}


@torch.inference_mode()
def slow_greedy(model, prompt: list[int], count: int, stops: set[int]) -> list[int]:
    """One token at a time over the whole text, without cache or batch."""
    ids = list(prompt)
    for _ in range(min(count, model.config.max_position_embeddings - len(prompt))):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_greedy_equals_one_by_one(family):
    model = tiny_model(1, **FAMILIES[family])
    size = model.config.vocab_size
    prompts = random_prompts(14, 40, size, seed=3)
    prompts += prompts[:4] + [prompts[5][:1] * 120]  # repeated prompts, and one near the context's end
    free = [slow_greedy(model, prompt, 12, set()) for prompt in prompts]
    stops = {free[0][5], free[6][3]}  # tokens that do occur
    engine = Engine(model, stops, max_batch=5)
    found = engine.generate(prompts, SamplingParams(max_new_tokens=12, temperature=0))
    for whole, completion in zip(free, found, strict=True):
        end = next((i + 1 for i, token in enumerate(whole) if token in stops), len(whole))
        assert completion.ids == whole[:end]
        stopped = completion.ids[-1] in stops
        assert completion.finish_reason == ("stop" if stopped else "length")
    assert engine.active == engine.waiting == 0
    assert {c.finish_reason for c in found} == {"stop", "length"}


def test_samples_do_not_depend_on_the_batch():
    model = tiny_model(2)
    prompts = random_prompts(12, 30, model.config.vocab_size, seed=4)
    params = SamplingParams(max_new_tokens=15, temperature=0.8, top_p=0.9, seed=11, logprobs=True)
    together = Engine(model, [1], max_batch=7).generate(prompts, params)
    for index, prompt in enumerate(prompts):
        alone = Engine(model, [1], max_batch=1).generate(
            [prompt], [dataclasses.replace(params, seed=derive_seed(11, index))]
        )[0]
        assert alone.ids == together[index].ids
        assert alone.logprobs == pytest.approx(together[index].logprobs, abs=1e-4)
    again = Engine(model, [1], max_batch=3).generate(prompts, params)
    assert [c.ids for c in again] == [c.ids for c in together]


def test_equal_prompts_with_one_seed_differ_and_without_a_seed_too():
    model = tiny_model(2)
    for seed in (5, None):
        found = Engine(model, []).generate([[3, 4, 5]] * 6, SamplingParams(max_new_tokens=12, seed=seed))
        assert len({tuple(c.ids) for c in found}) == 6


def test_logprobs_are_those_of_a_full_forward_pass():
    model = tiny_model(3)
    prompts = random_prompts(9, 20, model.config.vocab_size, seed=6)
    for completion, prompt in zip(
        Engine(model, [2], max_batch=4).generate(
            prompts, SamplingParams(max_new_tokens=10, logprobs=True, seed=1)
        ),
        prompts,
        strict=True,
    ):
        with torch.inference_mode():
            logprobs = model(torch.tensor([prompt + completion.ids]))[0].log_softmax(dim=-1)
        expected = [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(completion.ids)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("block", [64, 1 << 22])
def test_score_is_each_sequences_likelihood(monkeypatch, block):
    """Of prompts of all lengths in one pass, a single token among them, as of each alone in a plain forward
    pass."""
    monkeypatch.setattr("hanlin.inference.scoring.BLOCK_LOGITS", block)
    model = tiny_model(3)
    prompts = [[5], *random_prompts(11, 30, model.config.vocab_size, seed=8), [1, 2]]
    wanted = [index % 4 for index in range(len(prompts))]
    scores, hidden = Engine(model, []).score(prompts, wanted)
    for prompt, top, score, last in zip(prompts, wanted, scores, hidden, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt]))[0]
            assert torch.allclose(model.logits(last), logits[-1], atol=1e-4)
        logprobs = logits.log_softmax(dim=-1)
        expected = [float(logprobs[i, token]) for i, token in enumerate(prompt[1:])]
        assert score.logprobs == pytest.approx(expected, abs=1e-5)
        best = logprobs[:-1].topk(top, dim=-1)
        assert score.top_ids == best.indices.tolist()
        assert len(score.top_logprobs) == len(expected)
        for values, found in zip(best.values.tolist(), score.top_logprobs, strict=True):
            assert found == pytest.approx(values, abs=1e-5)


def test_what_follows_a_scored_prompt_equals_what_follows_a_read_one():
    """Whether one token is wanted, which comes from the scoring pass itself, or more."""
    model = tiny_model(3)
    prompts = random_prompts(6, 30, model.config.vocab_size, seed=4)
    for length in (0, 1, 5):
        params = [
            SamplingParams(
                max_new_tokens=length,
                seed=i,
                temperature=(0, 1)[i % 2],
                logprobs=True,
                top_logprobs=i % 3,
                logit_bias={2: 100} if i == 4 else {},
                repetition_penalty=(1, 5)[i % 2],
            )
            for i in range(6)
        ]
        expected = [Engine(model, [2]).generate([p], [s])[0] for p, s in zip(prompts, params, strict=True)]
        engine = Engine(model, [2], max_batch=4)
        told: list[tuple[int, int]] = []
        generations = [
            Generation(p, s, (lambda _, token, i=i, told=told: told.append((i, token))) if i < 3 else None)
            for i, (p, s) in enumerate(zip(prompts, params, strict=True))
        ]
        engine.submit_scored(generations, engine.score(prompts, [0] * 6)[1])
        if length == 1:
            assert all(generation.finish_reason for generation in generations) and not engine.waiting
        while engine.step():
            pass
        for i, (generation, completion) in enumerate(zip(generations, expected, strict=True)):
            assert generation.ids == completion.ids and generation.finish_reason == completion.finish_reason
            assert generation.logprobs == pytest.approx(completion.logprobs, abs=1e-4)
            if i < 3:
                assert [token for number, token in told if number == i] == completion.ids
        assert length == 0 or generations[4].finish_reason == "stop"


def test_scored_prompts_of_a_diverged_model_end_with_an_error():
    model = tiny_model(3)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    engine = Engine(model, [])
    generation = Generation([1, 2, 3], SamplingParams(max_new_tokens=1))
    engine.submit_scored([generation], engine.score([[1, 2, 3]], [0])[1])
    assert generation.finish_reason == "error" and generation.ids == []


def test_the_engine_follows_weights_that_change_between_calls():
    model = tiny_model(4)
    engine = Engine(model, [])
    params = SamplingParams(max_new_tokens=8, temperature=0)
    engine.generate([[1, 2, 3]], params)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)).abs() + 0.5
            )
    assert engine.generate([[1, 2, 3]], params)[0].ids == slow_greedy(model, [1, 2, 3], 8, set())
    model.train()
    loss = model(torch.tensor([[1, 2, 3]])).sum()
    loss.backward()  # nothing that generation left behind stops training


def test_requests_that_arrive_while_others_run():
    model = tiny_model(5)
    prompts = random_prompts(30, 30, model.config.vocab_size, seed=10)
    stops = set(range(20))
    engine = Engine(model, stops, max_batch=4)
    seen: dict[int, list[int]] = {}
    handles = []
    for index, prompt in enumerate(prompts):
        seen[index] = []
        handles.append(
            engine.submit(
                Generation(
                    prompt,
                    SamplingParams(max_new_tokens=12, temperature=0),
                    lambda g, token, index=index: seen[index].append(token),
                )
            )
        )
        if index % 3 == 0:
            engine.step()
    while engine.step():
        assert engine.active <= 4
    for index, (prompt, handle) in enumerate(zip(prompts, handles, strict=True)):
        assert handle.ids == seen[index] == slow_greedy(model, prompt, 12, stops)
        assert handle.finish_reason in ("stop", "length")


def test_cancel_frees_the_slot_within_a_step_and_disturbs_nobody():
    model = tiny_model(6)
    engine = Engine(model, [], max_batch=3)
    ended: list[Generation] = []
    params = SamplingParams(max_new_tokens=40, temperature=0)
    handles = [engine.submit(Generation([i + 1, i + 2], params, on_finish=ended.append)) for i in range(5)]
    engine.step()
    assert (engine.active, engine.waiting) == (3, 2)
    engine.cancel(handles[0])  # running
    engine.cancel(handles[4])  # waiting
    engine.step()
    assert (engine.active, engine.waiting) == (3, 0)
    assert [g.finish_reason for g in ended] == ["cancelled", "cancelled"]
    while engine.step():
        pass
    for i in (1, 2, 3):
        assert handles[i].ids == slow_greedy(model, [i + 1, i + 2], 40, set())
    assert len(ended) == 5
    engine.cancel(handles[1])
    assert handles[1].finish_reason == "length"


def test_a_listener_may_cancel_from_inside():
    model = tiny_model(6)
    engine = Engine(model, [], max_batch=2)

    def stop_at_three(generation: Generation, token: int) -> None:
        if len(generation.ids) == 3:
            engine.cancel(generation)

    handle = engine.submit(Generation([1, 2], SamplingParams(max_new_tokens=40), stop_at_three))
    while engine.step():
        pass
    assert len(handle.ids) == 3 and handle.finish_reason == "cancelled" and engine.active == 0


def test_limits():
    model = tiny_model(7)
    engine = Engine(model, [], max_batch=2, max_length=32)
    long, full, none = engine.generate(
        [[1] * 30, [1] * 32, [1]],
        [SamplingParams(max_new_tokens=9, temperature=0)] * 2 + [SamplingParams(max_new_tokens=0)],
    )
    assert (len(long.ids), long.finish_reason) == (2, "length")
    assert (full.ids, full.finish_reason) == ([], "length")
    assert (none.ids, none.finish_reason) == ([], "length")
    assert engine.generate([], SamplingParams()) == []


def test_stop_ids_and_ignore_eos():
    model = tiny_model(8)
    free = Engine(model, []).generate([[5, 6]], SamplingParams(max_new_tokens=10, temperature=0))[0].ids
    stop = free[4]
    first = free.index(stop)
    assert (
        Engine(model, [])
        .generate([[5, 6]], SamplingParams(max_new_tokens=10, temperature=0, stop_ids=(stop,)))[0]
        .ids
        == free[: first + 1]
    )
    assert (
        Engine(model, [stop])
        .generate([[5, 6]], SamplingParams(max_new_tokens=10, temperature=0))[0]
        .finish_reason
        == "stop"
    )
    assert (
        Engine(model, [stop])
        .generate([[5, 6]], SamplingParams(max_new_tokens=10, temperature=0, ignore_eos=True))[0]
        .ids
        == free
    )


def test_a_row_that_moves_takes_its_own_stop_ids_along():
    """Slot 0 ends first, so the last row moves there; its neighbours stop at other tokens."""
    model = tiny_model(8)
    prompts = [[5, 6], [7, 8], [9, 10]]
    free = [slow_greedy(model, prompt, 30, set()) for prompt in prompts]
    at = next(i for i in range(6, 30) if free[2][i] not in free[2][:i])
    stop = free[2][at]
    never = next(token for token in range(model.config.vocab_size) if not any(token in ids for ids in free))
    params = [
        SamplingParams(max_new_tokens=3, temperature=0, stop_ids=(never,)),
        SamplingParams(max_new_tokens=30, temperature=0, stop_ids=(never,)),
        SamplingParams(max_new_tokens=30, temperature=0, stop_ids=(stop,)),
    ]
    engine = Engine(model, [], max_batch=3)
    handles = [engine.submit(Generation(prompt, each)) for prompt, each in zip(prompts, params, strict=True)]
    while engine.step():
        pass
    assert [handle.ids for handle in handles] == [free[0][:3], free[1], free[2][: at + 1]]
    assert [handle.finish_reason for handle in handles] == ["length", "length", "stop"]


@pytest.mark.parametrize("prompt", [[], [-1], [10**6]])
def test_bad_prompts_are_refused(prompt):
    with pytest.raises(HanlinError):
        Engine(tiny_model(), []).generate([prompt])


def test_a_diverged_model_is_an_error_not_noise():
    model = tiny_model(9)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    engine = Engine(model, [])
    with pytest.raises(HanlinError, match="NaN"):
        engine.generate([[1, 2]], SamplingParams(temperature=0))
    assert engine.active == 0


def test_top_logprobs_begin_with_the_greedy_token():
    model = tiny_model(10)
    engine = Engine(model, [])
    handle = engine.submit(
        Generation(
            [4, 5],
            SamplingParams(max_new_tokens=5, temperature=0, logprobs=True, top_logprobs=4),
            lambda g, t: None,
        )
    )
    while engine.step():
        pass
    for token, logprob, top in zip(handle.ids, handle.logprobs, handle.top, strict=True):
        assert top[0][0] == token and top[0][1] == pytest.approx(logprob, abs=1e-5) and len(top) == 4
