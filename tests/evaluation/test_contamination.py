"""Contamination: items are found where they stand and nowhere else, the verdict says no more than was shown,
the ordering test and the canaries catch a model that was trained on them and no other."""

from __future__ import annotations

import random

import numpy as np
import orjson
import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.corpus.builder.build import CorpusConfig, build_corpus
from hanlin.corpus.canaries import Canaries
from hanlin.corpus.dedup.fingerprints import batch_of
from hanlin.dataset import build_text_dataset
from hanlin.evaluation.benchmarks.base import CLOZE
from hanlin.evaluation.benchmarks.items import Item, Prompt
from hanlin.evaluation.contamination.exposure import canary_ranks, fisher, look_for_canaries
from hanlin.evaluation.contamination.lookup import Lookup, Sighting, Texts, lookup_text, texts_of_run
from hanlin.evaluation.contamination.ordering import of_bits, ordering_test
from hanlin.evaluation.contamination.verdict import cluster_names, judge_sightings
from hanlin.evaluation.doctors.base import DOCTORS, examined
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.tokenizer import train_tokenizer
from tests.evaluation.doctor_models import (
    NAMES,
    PLACES,
    THINGS,
    make_tokenizer,
    new_model,
    text_examples,
    texts,
    train,
)

torch.set_num_threads(1)

POEM = Item(
    "p",
    "下列四位诗人中，哪一位曾经在成都的浣花溪畔修建草堂？",
    ("李白与他的好友们", "杜甫", "白居易", "王维"),
    1,
)
SUM = Item("s", "小红有三个苹果，妈妈又买来五个苹果，一共有多少个？", answer="8")
LETTERS = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", POEM.choices, strict=True))


def seen(item: Item, *documents: str, prompt: Prompt = CLOZE) -> Sighting:
    lookup = Lookup({"b": [lookup_text(item, prompt)]})
    lookup.read(Texts("t", "", [{"text": text} for text in documents]))  # type: ignore[arg-type]
    return lookup.found()["b"][0]


@pytest.fixture(autouse=True)
def texts_in_memory(monkeypatch):
    """Documents in place of files, where a test gives some."""
    real = Texts.batches

    def batches(self):
        if self.files and isinstance(self.files[0], dict):
            yield batch_of(document["text"] for document in self.files), [""] * len(self.files)
        else:
            yield from real(self)

    monkeypatch.setattr(Texts, "batches", batches)


# ---------------------------------------------------------------- looked up


@pytest.mark.parametrize(
    "document, expected",
    [
        (f"今天的题：{POEM.question}\n答案：杜甫", "question+answer"),
        (f"今天的题：{POEM.question}\n想好了再往下看。", "question"),
        (f"今天的题：{POEM.question}\n答案：李白与他的好友们", "question"),
        (f"{POEM.question}\n{LETTERS}", "question"),  # all choices are there, the key is not
        (f"{POEM.question}\n{LETTERS}\n答案：B", "question+answer"),
        (f"{POEM.question}\n{LETTERS}\n正确答案是 (B)。", "question+answer"),
        (f"{POEM.question}\n{LETTERS}\n答案：C", "question"),
        ("杜甫在成都的浣花溪畔修建草堂。", "none"),
        (" ".join(POEM.question.replace("，", "")) + " … 杜甫", "question+answer"),  # in another dress
        (POEM.question[:13], "none"),  # one run may be chance
        (POEM.question + "春天来了，花开了，孩子们都到外面去玩。" * 30 + "杜甫", "question"),  # far away
    ],
)
def test_a_question_and_its_answer_are_told_from_a_question(document: str, expected: str) -> None:
    assert seen(POEM, "别的文章。", document).seen == expected


def test_a_line_that_many_tests_ask_is_this_item_only_before_one_of_its_choices() -> None:
    item = Item("c", "下列有关细胞的叙述，正确的是：", ("都有细胞壁", "都有细胞膜", "都有叶绿体"), 1)
    assert seen(item, item.question + "A. 病毒没有细胞结构 B. 细菌没有细胞核").seen == "none"
    assert seen(item, item.question + "A. 都有细胞壁 B. 都有中心体").seen == "question"
    assert seen(item, item.question + "都有细胞膜").seen == "question+answer"


def test_a_number_is_the_answer_only_where_it_stands_alone() -> None:
    assert seen(SUM, SUM.question + "答：8个。").seen == "question+answer"
    assert seen(SUM, SUM.question + "这是第18题。").seen == "question"


def test_of_several_documents_the_one_with_the_answer_is_named_and_all_are_counted() -> None:
    found = seen(POEM, "别的文章。", POEM.question, POEM.question + "杜甫", POEM.question)
    assert (found.seen, found.document, found.documents) == ("question+answer", 2, 3)


def test_short_items_are_looked_up_with_their_answer_or_said_to_be_short() -> None:
    pair = Item("z", "", ("小明昨天把那本很旧的书还给了图书馆。", "小明昨天把还给了那本很旧的书图书馆。"), 0)
    prompt = Prompt("", "{choice}", main="sum", bare=None)
    assert seen(pair, "前面。" + pair.choices[0], prompt=prompt).seen == "question+answer"
    assert seen(pair, "前面。" + pair.choices[1], prompt=prompt).seen == "none"
    short = Item("q", "谁最高？", ("小明", "小红"), 0)
    assert seen(short, "谁最高？小明").seen == "short"


def test_a_passage_and_fields_of_a_prompt_belong_to_the_question() -> None:
    clause = "因为昨天夜里下了一场很大的暴雨"
    item = Item("x", "结果是什么？", ("河水涨了", "天很蓝"), 0, more={"clause": clause, "connector": "所以"})
    prompt = Prompt("{clause}，{connector}", main="sum", bare="{connector}")
    assert lookup_text(item, prompt).text == f"{clause}\n所以"
    assert seen(item, f"{clause}，所以河水涨了。", prompt=prompt).seen == "question+answer"


def test_corpora_files_and_tokens_say_the_same(tmp_path, tokenizer) -> None:
    documents = [{"text": text, "source": "web"} for text in texts(5, 30)]
    middle = documents[17]["text"] + POEM.question + "杜甫。" + documents[18]["text"]
    documents[17] = {"text": middle, "source": "exams"}
    file = tmp_path / "files" / "a.jsonl"
    file.parent.mkdir()
    file.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in documents))
    build_corpus(documents, tmp_path / "corpus", CorpusConfig(preset="none", heldout_fraction=0.0))
    whole = train_tokenizer(iter(document["text"] for document in documents), 600, tmp_path / "tokenizer")
    build_text_dataset(documents, whole, tmp_path / "dataset")
    found = []
    for name in ("files", "corpus", "dataset"):
        lookup = Lookup({"b": [lookup_text(POEM, CLOZE), lookup_text(SUM, CLOZE)]})
        lookup.read(Texts.of(tmp_path / name, whole))
        first, second = lookup.found()["b"]
        assert lookup.documents == 30
        assert second == Sighting("s", "none")
        found.append((first.seen, first.source, first.passage, first.documents))
    assert found == [("question+answer", "exams", found[0][2], 1)] * 3
    with pytest.raises(HanlinError, match="another tokenizer"):
        Texts.of(tmp_path / "dataset", tokenizer)
    # of a run: its corpus, and what its stages learnt, but not what was held out or what controls learnt
    for name in ("sft", "sft-heldout", "direct"):
        build_text_dataset(documents[:2], whole, tmp_path / "data" / name)
    (tmp_path / "controls" / "direct").mkdir(parents=True)
    read = [part.name for part in texts_of_run(tmp_path, whole)]
    assert read == [str(tmp_path / "corpus"), str(tmp_path / "data" / "sft")]
    (tmp_path / "corpus" / "documents.jsonl.zst").unlink()
    assert texts_of_run(tmp_path, whole)[0].name == str(tmp_path / "dataset")


def test_conversations_are_texts_too(tmp_path) -> None:
    turns = [{"role": "user", "content": POEM.question}, {"role": "assistant", "content": "是杜甫。"}]
    file = tmp_path / "chats.jsonl"
    file.write_bytes(orjson.dumps({"messages": turns}) + b"\n")
    lookup = Lookup({"b": [lookup_text(POEM, CLOZE)]})
    lookup.read(Texts.of(file, None))
    assert lookup.found()["b"][0].seen == "question+answer" and lookup.documents == 1
    (tmp_path / "other.jsonl").write_text('{"neither": 1}\n')
    with pytest.raises(HanlinError, match="neither"):
        lookup.read(Texts.of(tmp_path / "other.jsonl", None))


# ---------------------------------------------------------------- the verdict


def sightings(kinds: str) -> list[Sighting]:
    named = {"s": "short", "n": "none", "q": "question", "a": "question+answer"}
    return [Sighting(str(at), named[kind]) for at, kind in enumerate(kinds)]  # type: ignore[arg-type]


def test_clean_is_said_only_where_a_canary_was_found() -> None:
    clusters = [str(at) for at in range(30)]
    scores = [0.0, 1.0] * 15
    found = judge_sightings(sightings("n" * 30), scores, clusters, control_found=False)
    assert found.verdict == "unproven" and found.dirty is None and found.gap is None
    assert found.share is not None and found.share.value == 0 and found.share.high > 0.05
    assert judge_sightings(sightings("n" * 30), scores, clusters, control_found=True).verdict == "clean"
    assert judge_sightings(sightings("s" * 30), scores, clusters, control_found=True).verdict == "unknown"
    assert judge_sightings(sightings("q" + "n" * 29), scores, clusters, control_found=True).verdict == "seen"


def test_scores_of_both_parts_and_their_difference_by_clusters() -> None:
    kinds, scores = (
        "a" * 60 + "n" * 60 + "s" * 40,
        [1.0] * 48 + [0.0] * 12 + [1.0] * 18 + [0.0] * 42 + [1.0] * 40,
    )
    alone = judge_sightings(sightings(kinds), scores, [str(at) for at in range(160)], control_found=False)
    assert alone.dirty is not None and alone.clean is not None and alone.gap is not None and alone.share
    assert (alone.dirty.value, alone.dirty.n) == (0.8, 60)
    assert (alone.clean.value, alone.clean.n) == (0.3, 60)  # the short ones belong to neither
    assert (alone.share.value, alone.share.n) == (0.5, 120)
    assert alone.gap.value == pytest.approx(0.5)
    # of independent items the interval is that of two samples: 1.96 √(.8·.2/60 + .3·.7/60)
    assert alone.gap.high - alone.gap.low == pytest.approx(2 * 1.96 * (0.37 / 60) ** 0.5, rel=0.08)
    assert alone.gap.low > 0
    together = judge_sightings(
        sightings(kinds), scores, [str(at // 10) for at in range(160)], control_found=False
    )
    assert together.gap is not None
    assert together.gap.high - together.gap.low > 1.5 * (alone.gap.high - alone.gap.low)


def test_subjects_stand_for_clusters_where_items_have_none() -> None:
    assert cluster_names(["1", "2", "3"], ["arts", "arts", "law"]) == ["arts", "arts", "law"]
    assert cluster_names(["1", "1", "3"], ["arts", "arts", "law"]) == ["1", "1", "3"]
    assert cluster_names(["1", "2", "3"], ["", "", ""]) == ["1", "2", "3"]


# ---------------------------------------------------------------- the model itself


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("contamination") / "tokenizer")


def questions(seed: int, count: int) -> list[Item]:
    """Questions that follow from one another in no way."""
    rng = random.Random(seed)
    made = []
    for at in range(count):
        name, place, thing = rng.choice(NAMES), rng.choice(PLACES), rng.choice(THINGS)
        wrong = rng.choice([other for other in PLACES if other != place])
        made.append(Item(str(at), f"{name}在{place}找到了{thing}。{name}在哪里？", (place, wrong), 0))
    return made


def asked(items: list[Item]) -> list[str]:
    return [f"{item.question}{item.choices[0]}" for item in items]


ORDERED = 60


@pytest.fixture(scope="module")
def models(tokenizer):
    """One model that saw the questions in their order for many epochs, one that saw them shuffled."""
    said = asked(questions(4, ORDERED))
    rng = random.Random(1)

    def documents(shuffled: bool) -> list[str]:
        made = []
        for _ in range(200):
            order = list(said)
            if shuffled:
                rng.shuffle(order)
            begin = rng.randrange(len(order) - 3)
            made.append("\n\n".join(order[begin : begin + 4]))
        return made

    return {
        kind: train(new_model(tokenizer), text_examples(tokenizer, documents(kind == "shuffled")), 150, 8)
        for kind in ("ordered", "shuffled")
    }


def test_the_published_order_is_known_to_who_saw_it_and_to_nobody_else(models, tokenizer) -> None:
    said = asked(questions(4, ORDERED))
    known = ordering_test(models["ordered"], tokenizer, said)
    other = ordering_test(models["shuffled"], tokenizer, said)
    assert known is not None and other is not None
    assert known.p_value < 1e-4 and known.gain.low > 0
    assert other.p_value > 0.01
    assert (known.shards, known.items) == (20, 60)
    assert ordering_test(models["ordered"], tokenizer, said[:29]) is None


def test_the_p_value_is_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    bits = np.random.default_rng(2).normal(100, 3, (20, 11))
    bits[:, 0] -= 1.5
    saved = bits[:, 1:].mean(axis=1) - bits[:, 0]
    expected = stats.ttest_1samp(saved, 0, alternative="greater").pvalue
    assert of_bits(bits, 60).p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.nightly
def test_the_ordering_test_accuses_as_rarely_as_it_says(tokenizer) -> None:
    """A random order takes the published one's place: at 5 % one in twenty is accused, by chance."""
    model = train(new_model(tokenizer), text_examples(tokenizer, texts(2, 500)), 100)
    said = asked(questions(4, ORDERED))
    rng = random.Random(3)
    accused = 0
    for seed in range(400):
        rng.shuffle(said)
        found = ordering_test(model, tokenizer, said, seed=seed, shuffles=4)
        assert found is not None
        accused += found.p_value < 0.05
    assert 6 <= accused <= 36  # 20 expected; outside once in 10,000


def test_fishers_p_value() -> None:
    assert fisher(np.array([0.03])) == pytest.approx(0.03)
    assert fisher(np.array([0.5, 0.5])) == pytest.approx(0.25 * (1 + np.log(4)))
    stats = pytest.importorskip("scipy.stats")
    chances = np.random.default_rng(1).random(20)
    assert fisher(chances) == pytest.approx(stats.combine_pvalues(chances)[1], rel=1e-9)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Canaries, the tokens of their documents, and a model trained on those for some epochs."""
    folder = tmp_path_factory.mktemp("planted")
    canaries = Canaries(9, (1, 16), 10)
    documents = canaries.documents() + [{"text": text, "source": "web"} for text in texts(2, 200)]
    fit = train_tokenizer(
        iter([document["text"] for document in documents] * 3), 640, folder / "tokenizer", max_token_chars=1
    )
    dataset = build_text_dataset(documents, fit, folder / "dataset")
    # the sentence alone, where the positions of a tiny model do not reach over its document
    said = [f"{c.prompt}{c.number}。" for c in canaries.drawn() for _ in range(c.times)]
    model = train(new_model(fit), text_examples(fit, said + texts(2, 40)), 60, 8)
    return canaries, fit, dataset, model


def test_canaries_are_found_in_the_texts_and_by_how_often_in_the_model(planted) -> None:
    canaries, fit, dataset, model = planted
    once, often = look_for_canaries(canaries, [Texts.of_tokens(dataset, fit)], model, fit)
    assert (once.times, once.in_texts, once.copies) == (1, 10, 1.0)
    assert (often.times, often.in_texts, often.copies) == (16, 10, 16.0)
    assert often.found and often.exposure is not None and often.exposure.low > 3
    assert once.exposure is not None and once.exposure.value < often.exposure.value
    # other texts hold none, and a model that has not seen them knows none
    for group in look_for_canaries(Canaries(10, (1, 16), 10), [Texts.of_tokens(dataset, fit)], model, fit):
        assert group.in_texts == 0 and not group.found
    unknown = look_for_canaries(canaries, [])
    assert [group.in_texts for group in unknown] == [None, None] and unknown[0].exposure is None


def test_ranks_of_numbers_never_seen_are_chances(planted) -> None:
    _, fit, _, model = planted
    ranks = canary_ranks(model, fit, Canaries(33, (1,), 60).drawn())
    assert ranks.min() >= 1 and ranks.max() <= 64
    assert abs(ranks.mean() - 32.5) < 4 * 18.5 / 60**0.5


# ---------------------------------------------------------------- doctors


def doctor(name: str, model, tokenizer, **given):
    return examined(DOCTORS.get(name)(), DoctorContext(model, tokenizer, **given))


def test_contamination_a_model_trained_on_the_questions_is_caught(tmp_path, tokenizer, models) -> None:
    items = questions(4, ORDERED)
    dataset = build_text_dataset([{"text": text} for text in asked(items)], tokenizer, tmp_path / "d")
    found = doctor("contamination", models["ordered"], tokenizer, questions=items, dataset=dataset)
    assert found.level == "red" and found.metrics["seen"].value == 1.0
    # half of them: the score is compared with that on the rest
    half = build_text_dataset([{"text": text} for text in asked(items[:30])], tokenizer, tmp_path / "h")
    found = doctor("contamination", models["ordered"], tokenizer, questions=items, dataset=half)
    assert found.level in ("yellow", "red") and {"seen_score", "unseen_score", "difference"} <= set(
        found.metrics
    )


def test_contamination_no_model_is_cleared_without_a_canary(planted) -> None:
    canaries, fit, dataset, model = planted
    items = questions(77, 30)
    found = doctor("contamination", model, fit, questions=items, dataset=dataset)
    assert found.level == "unknown" and "nobody has shown" in found.meaning.en
    found = doctor("contamination", model, fit, questions=items, dataset=dataset, canaries=canaries)
    assert found.level == "ok" and found.metrics["exposure"].value > 3
    elsewhere = Canaries(10, (1, 16), 10)
    found = doctor("contamination", model, fit, questions=items, dataset=dataset, canaries=elsewhere)
    assert found.level == "unknown"
    assert doctor("contamination", model, fit, questions=items).level == "unknown"
    assert doctor("contamination", model, fit, dataset=dataset).level == "unknown"


def test_ordering_a_model_that_knows_the_file_is_caught(models, tokenizer) -> None:
    items = questions(4, ORDERED)
    # as they are asked: the test has to know them from another form than they were learnt in
    found = doctor("ordering", models["ordered"], tokenizer, questions=[_plain(item) for item in items])
    assert found.level == "red"
    found = doctor("ordering", models["shuffled"], tokenizer, questions=[_plain(item) for item in items])
    assert found.level == "ok"
    assert doctor("ordering", models["shuffled"], tokenizer, questions=items[:20]).level == "unknown"


def _plain(item: Item) -> Item:
    return Item(item.id, item.question, answer=item.choices[0])
