"""The small world: pure functions of their index, disjoint splits, lawful states, derivable answers, judges
that cannot be fooled."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections import Counter

import pytest

from hanlin.common.errors import HanlinError
from hanlin.corpus.tinyworld import (
    Dirt,
    chat_conversations,
    check_cleaning,
    check_exact,
    check_problem,
    check_story_answer,
    declines,
    documents,
    free_prompts,
    greetings,
    is_story,
    manner,
    mixed_conversations,
    outside_questions,
    preferences,
    problems,
    sample_prompts,
    story_questions,
    story_requests,
)
from hanlin.corpus.tinyworld.dirt import KINDS, NEAR_JACCARD, shingle_jaccard
from hanlin.corpus.tinyworld.draw import Draw, split_of
from hanlin.corpus.tinyworld.lexicon import (
    CHILDREN,
    EATEN,
    PEOPLE,
    PLACE,
    PLACES,
    SOLD_AT,
    SPOTS_AT,
    THING,
    THINGS,
)
from hanlin.corpus.tinyworld.questions import entities_in, story_question
from hanlin.corpus.tinyworld.telling import tell
from hanlin.corpus.tinyworld.world import Story, plan, replay

SOURCES = {
    "documents": lambda seed, count, split, start=0: documents(seed, count, split, start),
    "dirty documents": lambda seed, count, split, start=0: documents(seed, count, split, start, Dirt(0.4)),
    "story_questions": story_questions,
    "problems": problems,
    "free_prompts": free_prompts,
    "preferences": preferences,
    "chat_conversations": chat_conversations,
    "story_requests": story_requests,
    "outside_questions": outside_questions,
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_record_is_a_function_of_its_index(name: str) -> None:
    make = SOURCES[name]
    for split in ("train", "heldout"):
        whole = list(make(5, 60, split))
        assert whole == list(make(5, 60, split))
        assert whole[40:] == list(make(5, 20, split, 40))
        assert [next(iter(make(5, 1, split, index))) for index in (33, 7, 58)] == [
            whole[33],
            whole[7],
            whole[58],
        ]
        assert len({record["id"] for record in whole}) == 60
        assert whole != list(make(6, 60, split))


def test_an_unknown_split_is_refused() -> None:
    for make in SOURCES.values():
        with pytest.raises(HanlinError, match="heldout"):
            list(make(0, 1, "test"))


@pytest.mark.parametrize(
    "name", [name for name in SOURCES if name not in ("dirty documents", "chat_conversations")]
)
def test_splits_share_nothing(name: str) -> None:
    def surface(record: dict) -> str:
        return record.get("text") or str(record.get("messages") or record["prompt"])

    make = SOURCES[name]
    train, heldout = (
        {surface(record) for record in make(1, 3000, split) if record.get("source") != "tinyworld/sums"}
        for split in ("train", "heldout")
    )
    assert not train & heldout


def test_the_split_is_a_property_of_the_structure() -> None:
    for split in ("train", "heldout"):
        for index in range(300):
            story, _, _, _ = story_question(9, split, index)
            assert split_of(story.structure()) == split
        for record in problems(9, 300, split, reasoning=True):
            lines = record["messages"][1]["reasoning_content"].split("\n")
            operands = tuple(int(re.findall(r"[+-]\d+", line)[0]) for line in lines)
            assert split_of(("problem", int(re.findall(r"\d+", lines[0])[0]), operands)) == split


def test_more_than_a_billion_distinct_stories() -> None:
    """Count one family of five-event stories from the lexicon, and check that its members are lawful and
    told apart."""
    things = [thing.name for thing in THINGS if thing.name != "豆浆"]
    people, places = len(CHILDREN), len(PLACES)
    assert people >= 60 and places >= 24 and len(things) >= 40
    assert people * (people - 1) * (people - 2) * len(things) * places * (places - 1) * (places - 2) > 10**11
    rng, told = random.Random(0), set()
    for _ in range(2000):
        p, q, r = rng.sample(CHILDREN, 3)
        a, b, c = rng.sample([place.name for place in PLACES], 3)
        item = (rng.choice(things), "")
        events = (
            ("carry", p, item),
            ("go", p, a, ""),
            ("be", r, b, PLACE[b].activities[0]),
            ("meet", p, q),
            ("give", p, q, item),
            ("go", q, c, ""),
        )
        assert replay(events).held[q] == [item]
        told.add(tell(Story((p, q, r), "", "", "", events), Draw("family")))
    assert len(told) == 2000
    texts = [record["text"] for record in documents(2, 20000)]
    assert len(set(texts)) == len(texts)


def test_stories_obey_the_state() -> None:
    """An independent reading of the events: nobody gives what is not held, meets who is elsewhere, eats a
    book."""
    seen: Counter[str] = Counter()
    for index in range(3000):
        draw = Draw("law", index)
        story = plan(draw)
        where: dict[str, str] = {}
        holder: dict[tuple[str, str], str] = {}
        lying: dict[tuple[str, str], tuple[str, str]] = {}
        for event in story.events:
            verb, who = event[0], event[1]
            seen[verb] += 1
            assert (
                verb in ("be", "carry", "handed", "come")
                or who in where
                or any(h == who for h in holder.values())
                or verb == "go"
            )
            if verb in ("carry", "buy", "find", "take_out", "handed"):
                item = event[-1]
                assert item not in holder and item not in lying
                if verb == "buy":
                    assert item[0] in SOLD_AT[where[who]]
                if verb == "find":
                    assert not PLACE[where[who]].indoor
                holder[item] = who
            elif verb in ("be", "go"):
                assert where.get(who) != event[2] and (not event[3] or event[3] in PLACE[event[2]].activities)
                where[who] = event[2]
            elif verb == "come":
                assert who not in where and where[event[3]] == event[2]
                where[who] = event[2]
            elif verb == "meet":
                assert event[2] not in where
                where[event[2]] = where[who]
            elif verb == "together":
                assert where[who] == where[event[2]] != event[3]
                where[who] = where[event[2]] = event[3]
            elif verb == "share":
                assert where[who] == where[event[2]] and event[3] in PLACE[where[who]].activities
            elif verb == "give":
                assert holder[event[3]] == who != event[2] and where[who] == where[event[2]]
                holder[event[3]] = event[2]
            elif verb == "swap":
                assert (
                    holder[event[3]] == who and holder[event[4]] == event[2] and where[who] == where[event[2]]
                )
                holder[event[3]], holder[event[4]] = event[2], who
            elif verb == "put":
                assert holder.pop(event[2]) == who and event[3] in SPOTS_AT[where[who]]
                lying[event[2]] = (event[3], where[who])
            elif verb == "fetch":
                assert lying.pop(event[2]) == (event[3], where[who])
                holder[event[2]] = who
            elif verb == "eat":
                assert holder.pop(event[2]) == who and THING[event[2][0]].category in EATEN
            else:
                raise AssertionError(verb)
        state = replay(story.events)
        assert state.place == where and state.spot == lying
        assert {item: who for who, held in state.held.items() for item in held} == holder
        text = tell(story, draw)
        assert all(name in text for name in story.people)
        assert not re.search(r"，。|。，|，，|。。|，”|她们.*他们", text)
    assert len(seen) == 16 and min(seen.values()) > 20, seen


def test_answers_follow_from_the_events() -> None:
    for index in range(2000):
        story, text, question, _ = story_question(4, "heldout", index)
        state = replay(story.events)
        subject, kind, key = entities_in(question.text), question.kind, question.key
        holders = {item[0]: who for who, held in state.held.items() for item in held}
        if kind in ("where", "yes_no"):
            assert state.place[subject[0]] == key
            assert kind == "where" or question.answer.startswith("是") == (subject[1] == key)
        elif kind == "who_has":
            assert holders[subject[0]] == key
        elif kind == "what_has":
            assert [item[0] for item in state.held[subject[0]]] == [key]
        elif kind in ("object_place", "holder_place"):
            assert state.place[holders[subject[0]]] == key
        elif kind == "where_object":
            assert {name: spot for (name, _), (spot, _) in state.spot.items()}[subject[0]] == key
        elif kind == "count_people":
            assert list(state.place.values()).count(subject[0]) == "零一两三四".index(key[0])
        elif kind == "colour":
            assert (subject[0], key) in {
                part for event in story.events for part in event if isinstance(part, tuple)
            }
        elif kind == "who_gave":
            assert [
                e for e in story.events if e[0] in ("give", "handed") and key in e[1:3] and e[3][0] in subject
            ]
        else:
            assert key == story.weekday or any(
                key in event or any(key in part for part in event[2:] if isinstance(part, tuple))
                for event in story.events
            )
        assert key in text or kind == "count_people", (text, question)


def test_story_answers_are_judged_exactly() -> None:
    records = list(story_questions(3, 600, "heldout"))
    rng = random.Random(0)
    names = [*PEOPLE, *PLACE, *THING]
    for record, other in zip(records, reversed(records), strict=True):
        gold = record["messages"][1]["content"]
        assert check_story_answer(record, gold) and check_story_answer(record, f" {gold.rstrip('。')}\n")
        assert check_story_answer(record, f"<think>\n\n</think>\n\n{gold}")
        for wrong in (
            "",
            "。",
            gold + gold,
            gold[: len(gold) // 2],
            record["messages"][0]["content"],
            "不知道。",
            f"<think>{gold}",
            "不" + gold,
        ):
            assert (
                wrong == gold
                or not check_story_answer(record, wrong)
                or entities_in(wrong) == [record["answer"]]
            ), (wrong, gold)
        if entities_in(gold) != entities_in(other["messages"][1]["content"]):
            assert not check_story_answer(record, other["messages"][1]["content"])
        key = entities_in(gold)[-1]
        assert not check_story_answer(
            record, gold.replace(key, rng.choice([name for name in names if name != key]))
        )
        assert not check_story_answer(record, gold.rstrip("。") + "，也可能是" + rng.choice(names) + "。")


def test_two_hop_and_latest_fact_questions_are_in_proportion() -> None:
    kinds = Counter(record["kind"] for record in story_questions(8, 3000, "train"))
    two_hop = (kinds["object_place"] + kinds["holder_place"]) / 3000
    assert 0.08 < two_hop < 0.2
    assert kinds["yes_no"] < 400 and len(kinds) == 16 and kinds.most_common(1)[0][1] < 1000


def test_user_prompts_are_short() -> None:
    for make in (story_questions, problems, free_prompts, chat_conversations):
        assert max(len(record["messages"][0]["content"]) for record in make(2, 3000, "train")) <= 130


def test_problems_solve_step_by_step() -> None:
    direct = list(problems(1, 500, "heldout", reasoning=False))
    for record, plain in zip(problems(1, 500, "heldout", reasoning=True), direct, strict=True):
        user, reply = record["messages"]
        assert plain["messages"] == [user, {"role": "assistant", "content": reply["content"]}]
        lines = reply["reasoning_content"].split("\n")
        assert 3 <= len(lines) <= 5
        numbers = [int(number) for number in re.findall(r"\d+", user["content"])]
        total = numbers[0]
        for line, operand in zip(lines, numbers[1:], strict=True):
            assert re.fullmatch(r"\d+[+-]\d+=\d+", line)
            left, sign, right, _, result = re.findall(r"\d+|[+=-]", line)
            assert int(left) == total and int(right) == operand <= 9
            total += int(sign + right)
            assert int(result) == total and 0 <= total <= 50
        assert total == record["answer"] and check_problem(record, reply["content"])
        thought = f"<think>\n{reply['reasoning_content']}\n</think>\n\n{reply['content']}"
        assert check_problem(record, thought)


def test_problem_judge_refuses_hacks() -> None:
    for record in problems(2, 300, "heldout", reasoning=True):
        answer, steps = record["answer"], record["messages"][1]["reasoning_content"]
        for hack in (
            "",
            "答案是。",
            f"答案是{answer + 1}。",
            f"答案是-{answer}。",
            f"答案是{answer}{answer}。",
            f"答案是0{answer}。",
            f"答案是{answer}或{answer + 1}。",
            " ".join(map(str, range(51))),
            f"<think>\n{steps}\n答案是{answer}。",
            f"<think>\n{steps}\n</think>\n\n",
            f"<think>答案是{answer}。</think>\n\n答案是{answer + 1}。",
            f"<think>{steps}</think>答案是{answer}。<think>答案是{answer}。",
            f"{steps}\n答案是{answer}。",
            f"答案是{answer}。" * 20,
        ):
            assert not check_problem(record, hack), hack


def test_guessing_or_chaining_the_last_step_does_not_solve_problems() -> None:
    """The commonest answer and the last numbers of the text are poor guesses: the steps matter."""
    records = list(problems(3, 2000, "heldout", reasoning=False))
    assert Counter(record["answer"] for record in records).most_common(1)[0][1] < 0.08 * len(records)


def test_manners_are_told_apart_and_length_does_not_tell_them() -> None:
    pairs = list(preferences(4, 2000, "heldout"))
    assert all(
        manner(pair["chosen"]) == "polite" and manner(pair["rejected"]) == "impolite" for pair in pairs
    )
    lengths = [(len(pair["chosen"]), 1) for pair in pairs] + [(len(pair["rejected"]), 0) for pair in pairs]
    accuracies = [
        sum((length > cut) == bool(polite) for length, polite in lengths) / len(lengths) for cut in range(80)
    ]
    assert max(*accuracies, 1 - min(accuracies)) < 0.6
    longer = sum(
        (len(p["chosen"]) > len(p["rejected"])) + 0.5 * (len(p["chosen"]) == len(p["rejected"]))
        for p in pairs
    ) / len(pairs)
    assert 0.4 < longer < 0.6
    free = list(free_prompts(4, 2000, "train"))
    assert all(manner(record["messages"][1]["content"]) == record["manner"] for record in free)
    assert 0.45 < sum(record["manner"] == "polite" for record in free) / len(free) < 0.55


def test_manner_judge_refuses_what_is_not_an_answer() -> None:
    rng = random.Random(1)
    for pair in preferences(6, 300, "train"):
        polite, rude = pair["chosen"], pair["rejected"]
        shuffled = "".join(rng.sample(polite[:-1], len(polite) - 1)) + "。"
        for text in (
            "",
            "您好！",
            "您您您您您您您您您您您您。",
            polite[:-1],
            polite + rude,
            rude + polite,
            polite * 3,
            shuffled,
            "请" * 30 + "。",
        ):
            assert manner(text) == "neither", text
        assert manner(f"<think>\n\n</think>\n\n{polite}") == "polite"


def test_content_of_both_manners_is_about_the_request() -> None:
    for pair in preferences(7, 500, "train"):
        asked = set(entities_in(pair["prompt"][0]["content"])) | set(
            re.findall(r"\d+", pair["prompt"][0]["content"])
        )
        for reply in (pair["chosen"], pair["rejected"]):
            assert asked & (set(entities_in(reply)) | set(re.findall(r"\d+", reply))), (pair["prompt"], reply)


def test_dirt_is_labelled_and_the_check_is_exact() -> None:
    produced = list(documents(5, 6000, dirt=Dirt(0.25)))
    by_id = {record["id"]: record for record in produced}
    kinds = Counter(record.get("dirt") for record in produced)
    assert set(kinds) == {None, *KINDS} and min(kinds.values()) > 200
    clean = {record["id"]: record["text"] for record in documents(5, 6000)}
    for record in produced:
        if record.get("dirt") is None:
            assert record["text"] == clean[record["id"]]
        if "original" in record:
            original = by_id[record["original"]]
            assert "dirt" not in original
            if record["dirt"] == "exact_duplicate":
                assert record["text"] == original["text"]
            else:
                assert record["text"] != original["text"] and len(original["text"]) >= 80
                assert shingle_jaccard(record["text"], original["text"]) >= NEAR_JACCARD
    dirty = len(produced) - kinds[None]
    nothing_done = check_cleaning(produced, [record["text"] for record in produced])
    assert (nothing_done.dirt_total, nothing_done.dirt_removed, nothing_done.good_lost) == (dirty, 0, 0)
    perfect = check_cleaning(produced, [record["text"] for record in produced if "dirt" not in record])
    assert (perfect.dirt_removed, perfect.good_lost) == (dirty, 0) and perfect.good_total == kinds[None]
    everything_gone = check_cleaning(produced, [])
    assert (everything_gone.dirt_removed, everything_gone.good_lost) == (dirty, kinds[None])
    # a cleaner may keep the last of a cluster, rewrite punctuation, and repair what was spoiled
    last = {
        record.get("original", record["id"]): record["text"]
        for record in produced
        if record.get("dirt") not in ("spam", "mojibake", "html")
    }
    repaired = [
        clean[record["id"]] for record in produced if record.get("dirt") in ("spam", "mojibake", "html")
    ]
    kind_cleaner = check_cleaning(produced, [text.replace("，", ", ") for text in last.values()] + repaired)
    assert (kind_cleaner.dirt_removed, kind_cleaner.good_lost) == (dirty, 0)
    half = check_cleaning(
        produced, [record["text"] for record in produced if record.get("dirt") != "near_duplicate"]
    )
    assert half.by_kind["near_duplicate"][0] == half.by_kind["near_duplicate"][1] == half.dirt_removed


def test_good_documents_are_unlike_each_other() -> None:
    """No two of 3,000 share 70 % of their character 5-grams, by an inverted index over all pairs that share
    any."""
    shingles = [
        {text[at : at + 5] for at in range(len(text) - 4)}
        for text in (record["text"] for record in documents(6, 3000))
    ]
    frequency = Counter(itertools.chain.from_iterable(shingles))
    index: dict[str, list[int]] = {}
    worst = 0.0
    for at, own in enumerate(shingles):
        # Two sets with Jaccard > 0.7 must share one of the rarest 30 % (+1) of either: prefix filtering
        rare = sorted(own, key=lambda s: (frequency[s], s))[: int(len(own) * 0.3) + 1]
        for other in {j for s in rare for j in index.get(s, ())}:
            worst = max(worst, len(own & shingles[other]) / len(own | shingles[other]))
        for s in rare:
            index.setdefault(s, []).append(at)
    assert worst <= 0.7


def test_the_character_set_is_small_and_free_of_latin() -> None:
    texts = [record["text"] for record in documents(7, 12000)]
    inside = (
        record
        for record in chat_conversations(7, 4000, "train")
        if record["kind"] not in ("outside", "mixed")
    )
    texts += [
        message["content"]
        for record in inside
        for message in record["messages"]
        if message["role"] == "assistant"
    ]
    characters = Counter("".join(texts))
    assert 600 <= len(characters) <= 900, len(characters)
    assert not re.search(r"[A-Za-z<>{}]", "".join(texts))
    assert not set("".join(characters)) & set(",.!?;:()\"'")
    assert 60 < sum(map(len, texts[:12000])) / 12000 < 140


def test_problems_have_the_asked_steps_and_lines_that_add_up() -> None:
    for fewest in (1, 3):
        steps = Counter(record["steps"] for record in problems(3, 1500, "train", fewest=fewest))
        assert set(steps) == set(range(fewest, 6)) and min(steps.values()) > 200
    for record in problems(4, 500, "heldout", fewest=1):
        asked, reasoning = record["messages"][0]["content"], record["messages"][1]["reasoning_content"]
        lines = reasoning.split("\n")
        assert len(lines) == record["steps"] and lines[-1].endswith(f"={record['answer']}")
        total = int(re.findall(r"\d+", lines[0])[0])
        numbers = [int(n) for n in re.findall(r"\d+", asked)]
        assert numbers[0] == total and len(numbers) == record["steps"] + 1  # all that is said, in its order
        for line, number in zip(lines, numbers[1:], strict=True):
            left, sign, right, result = re.fullmatch(r"(\d+)([+-])(\d+)=(\d+)", line).groups()
            assert (int(left), int(right)) == (total, number)
            total += number if sign == "+" else -number
            assert total == int(result)


def test_what_is_outside_is_about_nothing_inside() -> None:
    world = {*PEOPLE, *(t.name for t in THINGS), *(p.name for p in PLACES)}
    asked = {
        split: [r["messages"][0]["content"] for r in outside_questions(2, 1500, split)]
        for split in ("train", "heldout")
    }
    assert not {text for texts in asked.values() for text in texts for name in world if name in text}
    assert not set(asked["train"]) & set(asked["heldout"])
    assert all(declines(r["messages"][1]["content"]) for r in outside_questions(2, 200, "train"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "我不知道。",
        "小世界里的人和事。",
        "小明在公园。",
        "我叫翰林。",
        "这个我不知道，我只认识小世界里的人和事。" * 2,
        "答案是8。",
    ],
)
def test_what_does_not_decline(text: str) -> None:
    assert not declines(text)


def test_a_story_is_told_whole_and_about_what_was_asked() -> None:
    for record in story_requests(5, 400, "heldout"):
        told = record["messages"][1]["content"]
        assert is_story(record, told) and is_story(record, f"<think>\n\n</think>\n{told}")
        assert not is_story(record | {"about": "恐龙"}, told)
        assert (
            not is_story(record, told[:-3])
            and not is_story(record, told + told)
            and not is_story(record, told[::-1])
        )
    record = {"about": ""}
    for other in (
        "答案是8。",
        "你好！我是翰林，很高兴认识你。",
        "这个我不知道，我只认识小世界里的人和事。",
        "17-8=9\n9+3=12\n答案是12。" * 2,
    ):
        assert not is_story(record, other)


def test_greetings_have_one_reply_and_mixed_turns_change_the_subject() -> None:
    replies: dict[str, str] = {}
    for split in ("train", "heldout"):
        for record in greetings(3, 800, split):
            asked, reply = (message["content"] for message in record["messages"])
            assert (
                replies.setdefault(asked, reply) == reply
                and check_exact(record, reply)
                and not check_exact(record, reply + "好")
            )
    for conversation in mixed_conversations(3, 200, "heldout"):
        kinds = [turn["kind"] for turn in conversation]
        assert len(kinds) in (2, 3) and all(one != two for one, two in zip(kinds, kinds[1:], strict=False))


def test_sample_prompts_are_fixed() -> None:
    for split in ("train", "heldout"):
        prompts = sample_prompts(split)
        assert prompts == sample_prompts(split) and len(prompts) == 6
        assert all(("text" in prompt) != ("messages" in prompt) for prompt in prompts)
    assert sample_prompts("train") != sample_prompts("heldout")


def test_speed_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    count = sum(1 for _ in documents(1, 5000))
    with capsys.disabled():
        print(f" {count / (time.perf_counter() - started):,.0f} documents/s", end="")
