"""The report: who is left out and why, what the raters' faults look like, and what is said when little is
known."""

from __future__ import annotations

import dataclasses
import json
import random
import re

import pytest

from hanlin.arena.analysis import analyse, needed
from hanlin.arena.page import render_arena, summary
from hanlin.arena.rules import Rules, read_arena
from tests.arena.arenas import NAMES, honest, make_arena, vote_all

THETA = [0.8, 0.0, -0.8]


def always_left(_):
    return "left"


def careless(rng):
    """Takes checks wrong, sides at random."""
    return lambda seen: (
        ("right" if seen.left_is_good else "left") if seen.kind == "gold" else rng.choice(["left", "right"])
    )


@pytest.fixture(scope="module")
def class_of_thirty(tmp_path_factory):
    """25 honest raters, 5 who always choose left."""
    folder = tmp_path_factory.mktemp("class")
    rng = random.Random(11)
    store = make_arena(folder, prompts=40)
    judges = [always_left] * 5 + [honest(THETA, random.Random(rng.random()), 0.1) for _ in range(25)]
    vote_all(store, read_arena(folder), judges)
    store.close()
    return folder


def test_five_saboteurs_of_thirty_are_found_by_their_side(class_of_thirty):
    found = analyse(class_of_thirty)
    # Who chose left is found by the side, unless both checks had the good answer on the right.
    assert {entry["rater"] for entry in found["sides"]["raters"]} == {f"r{n}" for n in range(1, 6)}
    assert {entry["rater"] for entry in found["excluded"]} == {f"r{n}" for n in range(1, 6)}
    assert found["sides"]["all"]["p"] < 0.01 and found["sides"]["all"]["share"] > 0.55
    assert found["sides"]["kept"]["p"] > 0.01
    assert [entry["model"] for entry in found["scores"]] == list(NAMES[:3])


def test_the_funnel_accounts_for_every_vote(class_of_thirty):
    found = analyse(class_of_thirty)
    first, *steps = found["funnel"]
    assert first["left"] == 600 and first["left"] - sum(step["out"] for step in steps) == found["n"]
    left = first["left"]
    for step in steps:
        left -= step["out"]
        assert step["left"] == left
    by_step = {step["step"]: step["out"] for step in steps}
    assert by_step["excluded_gold"] + by_step["excluded_side"] == 100
    assert (by_step["gold"], by_step["repeat"], by_step["shared"]) == (50, 25, 50)
    assert found["n"] == 375 == sum(entry["n"] for entry in found["win_rates"]) / 2


def test_the_true_scores_lie_in_the_intervals(class_of_thirty):
    found = analyse(class_of_thirty)
    for entry, theta in zip(found["scores"], THETA, strict=True):
        # one vote in ten is a tie: half a win to each side, which draws the scores a little together
        assert entry["low"] - 20 < 1000 + 173.7178 * theta < entry["high"] + 40
        assert entry["low"] < entry["elo"] < entry["high"]
    assert found["needed"]["state"] == "separated"
    assert found["superiority"][0][2] > 0.99 and found["superiority"][0][0] is None


def test_the_matrix_is_of_shares_that_add_to_one(class_of_thirty):
    matrix = analyse(class_of_thirty)["matrix"]
    for i in range(3):
        assert matrix[i][i] is None
        for j in range(3):
            if i != j:
                assert abs(matrix[i][j]["n"] - 125) <= 2 and matrix[i][j]["n"] == matrix[j][i]["n"]
                assert matrix[i][j]["share"] + matrix[j][i]["share"] == pytest.approx(1)
                assert matrix[i][j]["low"] <= matrix[i][j]["share"] <= matrix[i][j]["high"]


def test_failed_checks_and_hurry_leave_raters_out(tmp_path):
    rng = random.Random(2)
    store = make_arena(tmp_path)
    config = read_arena(tmp_path)
    vote_all(store, config, [careless(rng)] * 2 + [honest(THETA, rng) for _ in range(6)])
    hasty = store.rater_of(store.codes()[7])
    with store.transaction() as db:
        db.execute(
            "UPDATE vote SET ms = 900 WHERE battle IN (SELECT id FROM battle WHERE rater = ?)", (hasty,)
        )
    store.close()
    found = analyse(tmp_path)
    why = {entry["rater"]: entry["reason"] for entry in found["excluded"]}
    assert why == {"r1": "gold", "r2": "gold", f"r{hasty}": "fast"}
    assert found["gold"]["failed"] == 4 and found["gold"]["raters_failing"] == 2
    # the rules are the file's: with others nobody is left out, and the page says that they were changed
    loose = dataclasses.replace(config, rules=Rules(gold_failures=0, fast_share=1.0))
    loose.write(tmp_path)
    assert analyse(tmp_path)["excluded"] == []


def test_changed_rules_are_said(tmp_path):
    store = make_arena(tmp_path)
    config = read_arena(tmp_path)
    store.note("rules", config.rules.digest())
    vote_all(store, config, [honest(THETA, random.Random(1))])
    store.close()
    assert not analyse(tmp_path)["rules_changed"]
    dataclasses.replace(config, rules=Rules(gold_failures=1)).write(tmp_path)
    found = analyse(tmp_path)
    assert found["rules_changed"] and "not those that were in force" in render_arena(found)


def test_a_model_that_never_loses_gets_no_score(tmp_path):
    store = make_arena(tmp_path)

    def best_wins(seen):
        if seen.kind == "gold":
            return "left" if seen.left_is_good else "right"
        return "left" if seen.models[0] < seen.models[1] else "right"

    vote_all(store, read_arena(tmp_path), [best_wins] * 5)
    store.close()
    found = analyse(tmp_path)
    assert not found["finite"] and found["scores"] is None and len(found["parts"]) == 3
    assert found["win_rates"][0]["share"] == 1
    page = render_arena(found)
    assert "no finite estimate" in page and "No finite estimate" in summary(found)
    assert "inf" not in re.sub("[a-z]*inf[a-z]+|[a-z]+inf[a-z]*", "", page.lower())


def test_nothing_and_one_vote_are_reports_too(tmp_path):
    store = make_arena(tmp_path)
    found = analyse(tmp_path)
    assert found["n"] == 0 and found["needed"] == {"state": "unknown"}
    assert "nothing to rank" in summary(found) and "<h1>" in render_arena(found)
    code = store.ensure_raters(1)[0]
    rater = store.rater_of(code)
    assert rater is not None
    store.join(rater, store.schedule(read_arena(tmp_path)))
    at = next(row["position"] for row in store.battles_of(rater) if row["kind"] == "normal")
    with store.transaction() as db:
        assert store.record(rater, at, "tie", [], "import", db)
    store.close()
    found = analyse(tmp_path)
    assert found["n"] == 1 and found["scores"] is None
    json.dumps(found, allow_nan=False)
    render_arena(found)


def test_repeats_agreement_and_ties_are_what_the_raters_did(tmp_path):
    """Raters who go by the model agree with each other and themselves; who go by the side contradict
    themselves."""
    store = make_arena(tmp_path, prompts=40)

    def by_model(seen):
        if seen.kind == "gold":
            return "left" if seen.left_is_good else "right"
        return "left" if seen.models[0] < seen.models[1] else "right"

    vote_all(store, read_arena(tmp_path), [by_model] * 6)
    store.close()
    found = analyse(tmp_path)
    assert found["repeats"] == {**found["repeats"], "n": 6, "same": 6, "share": 1.0}
    assert found["agreement"]["agreement"] == 1.0 and found["ties"]["tie"]["count"] == 0


def test_those_who_choose_left_contradict_themselves(tmp_path):
    store = make_arena(tmp_path, prompts=40)
    vote_all(store, read_arena(tmp_path), [always_left] * 4)
    store.close()
    config = read_arena(tmp_path)
    dataclasses.replace(config, rules=Rules(gold_failures=0, side_p=0.0)).write(tmp_path)
    assert analyse(tmp_path)["repeats"]["same"] == 0


def test_raters_who_like_length_are_seen_through(tmp_path):
    """The third model's answers are the longest: it leads, and with length held equal it does not."""
    rng = random.Random(5)
    lengths: dict[tuple[int, int], int] = {}

    def text(prompt, model):
        lengths[prompt, model] = max(5, int((60, 90, 140)[model] * rng.lognormvariate(0, 0.7)))
        return "好" * lengths[prompt, model]

    store = make_arena(tmp_path, prompts=60, text=text)

    def likes_length(seen):
        if seen.kind == "gold":
            return "left" if seen.left_is_good else "right"
        left, right = (lengths[seen.prompt, model] for model in seen.models)
        return "left" if rng.random() < left**2 / (left**2 + right**2) else "right"

    vote_all(store, read_arena(tmp_path), [likes_length] * 30)
    store.close()
    found = analyse(tmp_path)
    assert found["scores"][0]["model"] == NAMES[2]
    length = found["style"]["coefficients"]["length"]
    assert length["low"] > 0 and found["style"]["twice_as_long"]["low"] > 0.6
    held = {entry["model"]: entry["elo"] for entry in found["style"]["scores"]}
    plain = {entry["model"]: entry["elo"] for entry in found["scores"]}
    assert abs(held[NAMES[2]] - held[NAMES[0]]) < 0.5 * (plain[NAMES[2]] - plain[NAMES[0]])


def test_categories_and_reasons_are_counted(class_of_thirty, tmp_path):
    found = analyse(class_of_thirty)
    assert {entry["category"] for entry in found["categories"]} == {"算术", "故事"}
    assert sum(entry["n"] for entry in found["categories"]) == found["n"]
    store = make_arena(tmp_path)
    vote_all(store, read_arena(tmp_path), [honest([5.0, 0.0, -5.0], random.Random(1)) for _ in range(3)])
    with store.transaction() as db:
        db.execute("UPDATE vote SET reasons = 'facts short'")
    store.close()
    reasons = {entry["model"]: entry["reasons"] for entry in analyse(tmp_path)["reasons"]}
    assert reasons[NAMES[0]].get("facts", 0) < reasons[NAMES[1]]["facts"] < reasons[NAMES[2]]["facts"]


@pytest.mark.parametrize(
    ("top", "state"),
    [
        ({"low": 5.0, "high": 90.0, "share": 0.57, "votes": 200}, "separated"),
        ({"low": -20.0, "high": 25.0, "share": 0.51, "votes": 900}, "equivalent"),
        ({"low": -30.0, "high": 110.0, "share": 0.57, "votes": 100}, "open"),
        ({"low": -80.0, "high": 80.0, "share": 0.5, "votes": 100}, "open"),
    ],
)
def test_when_to_stop(top, state):
    found = needed({"top_two": top}, Rules(), 3)
    assert found["state"] == state
    if state == "open" and top["share"] == 0.57:
        assert found["between"] == 399 and found["votes"] == 3 * 299  # three pairs share the schedule
    if top["share"] == 0.5:
        assert found["votes"] is None


def test_the_page_is_whole_escaped_and_needs_no_network(tmp_path):
    store = make_arena(tmp_path, text=lambda prompt, model: f"<script>alert({prompt})</script>{model}")
    rng = random.Random(3)
    vote_all(store, read_arena(tmp_path), [honest([0.3, 0.0, -0.3], rng, 0.2) for _ in range(12)])
    store.close()
    found = analyse(tmp_path)
    assert found["disputed"]
    page = render_arena(found)
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert not re.search(r"(?:src|href)=[\"']https?://", page) and "@import" not in page
    for zh, en in re.findall(r'<span lang="zh-CN">(.*?)</span><span lang="en">(.*?)</span>', page):
        assert zh and en
    json.dumps(found, allow_nan=False)
    for text in ("Ranking", "Who beat whom", "Which votes count", "The rules", "排名"):
        assert text in page
