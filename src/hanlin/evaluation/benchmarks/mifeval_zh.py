"""The Chinese part of P-MMEval's mIFEval (Zhang et al. 2024, after IFEval): instructions whose fulfilment a
program can check."""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import Benchmark, Verdict, column, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.instructions import CHECKERS, arguments_of, follows, variants
from hanlin.evaluation.benchmarks.items import Item, LeftOut, Prompt


@register_benchmark
class MIFEvalZh(Benchmark):
    """File `mifeval/test/zh.jsonl`: prompt, instruction_id_list, kwargs with one object for each instruction.

    A reply is right when it follows all of its instructions: strictly as it stands, leniently each of them in
    one of the `variants`. How many items were published is not known here.
    """

    name = "mifeval_zh"
    title = Text("mIFEval: instructions that can be checked")
    licence = "Apache-2.0"
    home = "https://huggingface.co/datasets/Qwen/P-MMEval"
    split = "test"
    prompts = {"hanlin-zh": {"answer": Prompt("{question}", "{answer}", max_new_tokens=512)}}

    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Items in the file's order, those with an instruction that can't be checked left out."""
        for name in self.files(folder, f"mifeval/{split}/zh.jsonl", "mifeval*zh*.jsonl"):
            for place, row in enumerate(folder.rows(name)):
                where = f"{folder.where(name)}:{place + 1}"
                id, names, given = (
                    str(row.get("key", place)),
                    row.get("instruction_id_list"),
                    row.get("kwargs"),
                )
                if not isinstance(names, list) or not isinstance(given, list) or not names:
                    yield LeftOut(id, Text("no list of instructions and their arguments"))
                    continue
                unknown = [each for each in names if each not in CHECKERS]
                if unknown:
                    yield LeftOut(id, Text("an instruction without a check: {name}", name=unknown[0]))
                    continue
                given = given * len(names) if len(given) == 1 else given
                objects = [each if isinstance(each, dict) else {} for each in given]
                pairs = [
                    [each, arguments_of(each, found)] for each, found in zip(names, objects, strict=False)
                ]
                if len(pairs) < len(names) or any(arguments is None for _, arguments in pairs):
                    yield LeftOut(id, Text("an instruction without its arguments"))
                    continue
                yield Item(
                    id,
                    column(row, "prompt", where=where),
                    subject=names[0].partition(":")[0],
                    more={"instructions": pairs},
                )

    def check(self, item: Item, text: str) -> Verdict:
        """Whether every instruction is followed."""
        texts = variants(text)
        return Verdict(
            strict=all(follows(name, arguments, text) for name, arguments in item.more["instructions"]),
            lenient=all(
                any(follows(name, arguments, each) for each in texts)
                for name, arguments in item.more["instructions"]
            ),
        )
