"""Items of benchmarks looked up in the texts that a model was trained on.

The texts are streamed; what is kept in memory is the items' runs of 13 characters
(`corpus.dedup.decontamination`), so that one pass over the corpus serves all benchmarks. An item counts as
seen where a document holds two of its runs near one another, fifty characters on end, or all of it: what
`hanlin corpus build --decontaminate` drops documents for.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from hanlin._native import TextBatch
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import hash_json, read_manifest
from hanlin.common.savepoint import files_key
from hanlin.corpus.dedup.decontamination import Benchmarks
from hanlin.corpus.dedup.fingerprints import comparison_key, comparison_keys
from hanlin.corpus.readers.artefacts import CORPUS, DOCUMENTS, documents_of, kind_of
from hanlin.corpus.readers.files import expand
from hanlin.corpus.readers.read import read_conversations, read_sourced_texts
from hanlin.dataset import TokenDataset
from hanlin.evaluation.benchmarks.items import LETTERS, Item, Prompt
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.texts import text_batches

Seen = Literal["short", "none", "question", "question+answer"]
"""Whether the training texts hold an item: too short to be looked up, not found, what is asked, or that with
the right answer behind it."""

RUN = 13  # characters, as in decontamination
HITS = 2  # runs near one another
COMMON = 20  # characters below which a question with choices may be asked in any test (ours)
HELD_OUT = "-heldout"  # ends the names of a run's data that nothing is trained on
_ROOM = 80  # characters between a question and its answer beside the choices: marks of turns, "the answer is"
_TAIL = 6  # characters by which the end of a question is known in a document
_KEY = re.compile(r"答案(?:应该|应当|应)?(?:选择|选|是|为)?(?:选项)?([a-z])(?![a-z])")


@dataclasses.dataclass(frozen=True)
class LookupText:
    """What of an item is looked for.

    Attributes:
        text: what is asked, in the order in which it is shown, without the prompt's own words and without
            choices.
        answer: the right one; empty where it cannot be told from a text.
        wrong: the other choices.
        letter: of the right choice.
        whole: the answer is part of the text, since the question alone is too short to be looked up.
    """

    id: str
    text: str
    answer: str
    wrong: tuple[str, ...] = ()
    letter: str = ""
    whole: bool = False


def lookup_text(item: Item, prompt: Prompt) -> LookupText:
    """What of an item is looked for.

    Args:
        prompt: one under which the choices' own texts are asked; it says in which order the parts come.
    """
    gold = item.gold
    answer = item.answer if gold is None else item.choices[gold]
    fields: dict[str, Any] = item.fields() if gold is None else item.fields_of(gold)
    asked = _filled(prompt.context, {**fields, "options": "", "letter": "", "choice": "", "answer": ""})
    whole = False
    if len(comparison_key(asked)) < RUN:
        together = _filled(prompt.context + prompt.continuation, {**fields, "options": "", "letter": ""})
        asked, whole = together, True
    wrong = tuple(choice for at, choice in enumerate(item.choices) if at != gold)
    return LookupText(item.id, asked, answer, wrong, "" if gold is None else LETTERS[gold], whole)


def _filled(template: str, fields: Mapping[str, Any]) -> str:
    """A template's values, without what stands between them."""
    named = [name for _, name, _, _ in Formatter().parse(template) if name]
    return "\n".join(value for name in named if isinstance(value := fields.get(name), str) and value)


@dataclasses.dataclass(frozen=True)
class Sighting:
    """An item and where it was seen first.

    Attributes:
        source, document: name of the document's source, and its number in its corpus from 0; empty and -1
            where it was not seen.
        passage: the longest passage that both have, in the comparison key.
        documents: that hold it.
    """

    id: str
    seen: Seen
    corpus: str = ""
    source: str = ""
    document: int = -1
    passage: str = ""
    documents: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON lines."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Texts:
    """Texts that a model was trained on.

    Attributes:
        name: for people.
        hash: of what they are.
        files: that hold them.
        tokens: a dataset that is decoded instead, with its tokenizer.
    """

    name: str
    hash: str
    files: Sequence[Path] = ()
    tokens: tuple[TokenDataset, Tokenizer] | None = None

    @classmethod
    def of(cls, path: Path | str, tokenizer: Tokenizer | None) -> Texts:
        """A corpus, a token dataset, a file, a directory of files or a glob.

        Raises:
            HanlinError: nothing there, an artefact of another kind, or a dataset of another tokenizer.
        """
        folder = Path(path)
        if kind_of(folder) == "dataset" and tokenizer is not None:
            return cls.of_tokens(TokenDataset(folder, verify=False), tokenizer)
        files = documents_of(folder)
        if files is not None:
            return cls(str(path), read_manifest(folder, verify=False).content_hash, files)
        found = expand(path)
        return cls(str(path), files_key(found, "texts"), found)

    @classmethod
    def of_tokens(cls, dataset: TokenDataset, tokenizer: Tokenizer) -> Texts:
        """The texts of a token dataset.

        Raises:
            HanlinError: it was made with another tokenizer.
        """
        dataset.require_tokenizer(tokenizer)
        return cls(str(dataset.path), dataset.manifest.content_hash, tokens=(dataset, tokenizer))

    def batches(self) -> Iterator[tuple[TextBatch, Sequence[str]]]:
        """The texts, many at once, with the source of each.

        Raises:
            HanlinError: as `read_documents`.
        """
        if self.tokens is not None:
            yield from _decoded(*self.tokens)
        else:
            for file in self.files:
                yield from _texts_of_file(file)


def _texts_of_file(file: Path) -> Iterator[tuple[TextBatch, Sequence[str]]]:
    """The texts of a file of documents, or of conversations, the turns of one behind one another: benchmarks
    are found in those as well.

    Raises:
        HanlinError: it holds neither, or is damaged.
    """
    begun = False
    try:
        for batch in read_sourced_texts([file]):
            begun = True
            yield batch.texts, batch.names or [""] * len(batch)
    except HanlinError:
        if begun:
            raise
        try:
            first = next(iter(read_conversations([file])), None)
        except HanlinError:
            first = None
        if first is None:
            raise
        for batch in text_batches(map(_said, read_conversations([file]))):
            yield batch, [file.name] * len(batch)


def _said(conversation: Mapping[str, Any]) -> str:
    turns = conversation["messages"]
    parts = [turn.get(part) for turn in turns for part in ("reasoning_content", "content")]
    return "\n".join(part for part in parts if isinstance(part, str))


def _decoded(dataset: TokenDataset, tokenizer: Tokenizer) -> Iterator[tuple[TextBatch, Sequence[str]]]:
    names = dataset.source_names
    begun = 0
    texts = (tokenizer.decode(dataset.document(at)) for at in range(len(dataset)))
    for batch in text_batches(texts):
        count = len(batch)
        numbers = range(begun, begun + count)
        begun += count
        sources = dataset.sources
        yield batch, [names[sources[at]] for at in numbers] if sources is not None else [""] * count


class Lookup:
    """Looks for items in texts.

    Args:
        wanted: by benchmark.
    """

    def __init__(self, wanted: Mapping[str, Sequence[LookupText]]):
        self._wanted = {name: list(found) for name, found in wanted.items()}
        self._flat = list(chain.from_iterable(self._wanted.values()))
        named = [
            (name, at, sought.text) for name, found in self._wanted.items() for at, sought in enumerate(found)
        ]
        self._finder = Benchmarks(named, RUN)
        self._found: list[Sighting] = [
            Sighting(sought.id, "none" if known else "short")
            for sought, known in zip(self._flat, self._finder.can_be_found, strict=True)
        ]
        self.documents = 0

    @property
    def key(self) -> str:
        """What is looked for, hashed."""
        return hash_json(
            [
                RUN,
                HITS,
                {
                    name: [dataclasses.asdict(sought) for sought in found]
                    for name, found in self._wanted.items()
                },
            ]
        )

    def read(self, texts: Texts) -> None:
        """Look through some texts."""
        begun = 0
        for batch, names in texts.batches():
            keys = comparison_keys(batch)
            for text, place, begin, end in self._finder.find_every(keys, HITS):
                self._note(place, keys[text], begin, end, texts.name, names[text], begun + text)
            begun += len(names)
        self.documents += begun

    def _note(
        self, place: int, key: bytes, begin: int, end: int, corpus: str, source: str, document: int
    ) -> None:
        before, sought = self._found[place], self._flat[place]
        behind = _behind(sought, key, begin, end)
        if not sought.whole and _is_common(sought) and not _has_a_choice(sought, behind):
            return
        count = before.documents + 1
        seen: Seen = "question+answer" if sought.whole or _answered(sought, behind) else "question"
        if before.documents and (seen == before.seen or before.seen == "question+answer"):
            self._found[place] = dataclasses.replace(before, documents=count)
            return
        passage = key[begin:end].decode("utf-8", "replace")
        self._found[place] = Sighting(sought.id, seen, corpus, source, document, passage, count)

    def found(self) -> dict[str, list[Sighting]]:
        """What was seen of each benchmark's items, in their order."""
        rest = iter(self._found)
        return {name: [next(rest) for _ in found] for name, found in self._wanted.items()}


def _behind(sought: LookupText, key: bytes, begin: int, end: int) -> str:
    """What stands behind a question in a document, as far as the question, the choices and some room reach.

    Args:
        key: the document's comparison key, of which bytes `begin` to `end` are the question's passage.
    """
    question = comparison_key(sought.text)
    reach = 2 * len(question) + sum(map(len, (sought.answer, *sought.wrong))) + _ROOM
    passage = len(key[begin:end].decode("utf-8", "ignore"))
    found = key[begin : end + 4 * reach].decode("utf-8", "ignore")[: passage + reach]
    tail = found.find(question[-_TAIL:])
    return found[tail + _TAIL :] if tail >= 0 else found[passage:]


def _is_common(sought: LookupText) -> bool:
    """Whether other tests may ask in the same words: a question of a line with choices, such as which of the
    following is true of cells. Then it is this item only where one of its choices follows."""
    return bool(sought.wrong) and len(comparison_key(sought.text)) < COMMON


def _has_a_choice(sought: LookupText, behind: str) -> bool:
    choices = map(comparison_key, (sought.answer, *sought.wrong))
    return any(choice and _stands(choice, behind) for choice in choices)


def _answered(sought: LookupText, behind: str) -> bool:
    """Whether the right answer stands behind the question. Where all choices stand there, as in a list, the
    key to them has to: 答案 and the right letter."""
    answer = comparison_key(sought.answer)
    wrong = [comparison_key(choice) for choice in sought.wrong]
    if not answer:
        return False
    if wrong and all(choice and _stands(choice, behind) for choice in wrong):
        told = _KEY.search(behind)
        return told is not None and told[1] == sought.letter.lower()
    return _stands(answer, behind)


def _stands(words: str, text: str) -> bool:
    """Whether words occur in a text; a number or a Latin word not within a longer one."""
    before = r"(?<![0-9a-z])" if re.match(r"[0-9a-z]", words) else ""
    after = r"(?![0-9a-z])" if re.search(r"[0-9a-z]$", words) else ""
    return re.search(before + re.escape(words) + after, text) is not None


def texts_of_run(run: Path, tokenizer: Tokenizer | None) -> list[Texts]:
    """All that a run trained on, as far as its files are still there: its corpus, or where that is gone the
    tokens made from it, and the conversations and pairs of its stages. What was held out, and what controls
    learnt beside them, its models have not seen."""
    places = [run / "corpus" if _is_there(run / "corpus") else run / "dataset"]
    if (run / "data").is_dir():
        places += [
            place
            for place in sorted((run / "data").iterdir())
            if not place.name.endswith(HELD_OUT) and not (run / "controls" / place.name).is_dir()
        ]
    return [Texts.of(place, tokenizer) for place in places if _is_there(place)]


def _is_there(place: Path) -> bool:
    """Whether a corpus or dataset is there with its texts, which people remove when they need the room."""
    files = {CORPUS: DOCUMENTS, "dataset": "tokens.bin"}
    name = files.get(kind_of(place))
    return name is not None and (place / name).is_file()
