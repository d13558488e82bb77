"""The files that the benchmarks of `hanlin eval` read, where their authors publish them.

Licence and page are those of the benchmarks' classes, which stand in a room to the right; a test holds the
two against each other. An id on a hub is here only where that is where the authors publish, or where a copy
of theirs is known; others may exist.
"""

from __future__ import annotations

from hanlin.corpus.download.data_set import DataSet, data_set

_FEWCLUE = "bustm eprstmt ocnli csl tnews cluewsc chid"
_FEWCLUE_SPLITS = ("train_few_all", "dev_few_all", "test_public")


def _benchmark(
    name: str, fields: str, licence: str, commercial: str, size: str, files: str, **where: str
) -> DataSet:
    """A row; `where` has `hf` or `github`, and the benchmarks' names where they are others."""
    return data_set(
        name,
        "evaluation",
        fields,
        where.get("hf", ""),
        "",
        licence,
        commercial,  # type: ignore[arg-type]  # literals below
        size,
        files,
        where.get("github", ""),
        where.get("measures", name),
    )


BENCHMARK_SETS: tuple[DataSet, ...] = (
    _benchmark(
        "c-eval",
        "id question A B C D answer explanation",
        "CC BY-NC-SA 4.0",
        "no",
        "13,948 questions",
        "",
        hf="ceval/ceval-exam",
        measures="ceval",
    ),
    _benchmark(
        "cmmlu",
        "Question A B C D Answer",
        "CC BY-NC-SA 4.0",
        "no",
        "11,917 questions",
        "data/dev/*.csv data/test/*.csv *.zip",
        hf="haonan-li/cmmlu",
        github="haonan-li/CMMLU",
    ),
    _benchmark(
        "agieval",
        "passage question options label",
        "MIT; the questions' own licences apply",
        "unknown",
        "4,417 questions",
        "data/v1/gaokao-*.jsonl data/v1/jec-qa-*.jsonl data/v1/logiqa-zh.jsonl",
        github="ruixiangcui/AGIEval",
    ),
    _benchmark(
        "gaokao-bench",
        "example[question,answer]",
        "Apache-2.0",
        "yes",
        "1,552 questions",
        "Data/Objective_Questions/20*_MCQs.json",  # answers of a model lie beside them
        github="OpenLMLab/GAOKAO-Bench",
        measures="gaokao",
    ),
    _benchmark(
        "c3",
        "[lines] [question,choice,answer]",
        "non-commercial research",
        "no",
        "19,577 questions",
        "data/c3-*.json",
        github="nlpdata/c3",
    ),
    _benchmark(
        "fewclue",
        "by task",
        "none stated",
        "unknown",
        "7 tasks",
        " ".join(f"datasets/{task}/{split}.json" for task in _FEWCLUE.split() for split in _FEWCLUE_SPLITS),
        github="CLUEbenchmark/FewCLUE",
        measures=_FEWCLUE,
    ),
    _benchmark(
        "zhoblimp",
        "UID phenomenon sentence_good sentence_bad pairID",
        "none stated",
        "unknown",
        "35,400 pairs",
        "data/ZhoBLiMP.tar.gz",
        github="sjtu-compling/ZhoBLiMP",
    ),
    _benchmark(
        "xcopa",
        "premise choice1 choice2 question label",
        "CC BY 4.0",
        "yes",
        "600 questions",
        "data/zh/*.jsonl",  # those below data-gmt were translated by a machine
        github="cambridgeltl/xcopa",
    ),
    _benchmark(
        "xstorycloze",
        "input_sentence_1…4 sentence_quiz1 sentence_quiz2 answer_right_ending",
        "CC BY-SA 4.0",
        "yes",
        "1,871 stories",
        "*.zh.tsv.split_20_80_*.tsv zh/*.parquet",
        hf="juletxara/xstory_cloze",
    ),
    _benchmark(
        "xwinograd",
        "sentence option1 option2 answer",
        "CC BY 4.0",
        "yes",
        "504 sentences",
        "test/zh.jsonl zh/*.parquet",
        hf="Muennighoff/xwinograd",
    ),
    _benchmark(
        "belebele",
        "flores_passage question mc_answer1…4 correct_answer_num",
        "CC BY-SA 4.0",
        "yes",
        "900 questions",
        "*zho_Hans.jsonl zho_Hans/*.parquet",
        hf="facebook/belebele",
    ),
    _benchmark(
        "cmath",
        "grade input golden reasoning_step num_digits",
        "CC BY 4.0",
        "yes",
        "600 problems",
        "datasets/cmath_dev.jsonl",
        github="XiaoMi/cmath",
    ),
    _benchmark(
        "mgsm",
        "question answer_number",
        "CC BY 4.0",
        "yes",
        "250 problems",
        "mgsm/mgsm_zh.tsv",
        github="google-research/url-nlp",
    ),
    _benchmark(
        "mifeval-zh",
        "prompt instruction_id_list kwargs",
        "Apache-2.0",
        "yes",
        "",
        "mifeval/test/zh.jsonl",
        hf="Qwen/P-MMEval",
        measures="mifeval_zh",
    ),
    _benchmark(
        "safetybench",
        "id question options category",
        "MIT",
        "yes",
        "2,100 questions",
        "opensource_data/test_zh_subset.json opensource_data/test_answers_zh_subset.json",
        github="thu-coai/SafetyBench",
    ),
)
