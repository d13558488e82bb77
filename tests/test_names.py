"""The field's terms: identifiers that were replaced do not come back, and what replaced each is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hanlin

SOURCE = Path(hanlin.__file__).parent
FILES = sorted([*SOURCE.rglob("*.py"), *SOURCE.rglob("*.pyi")])

# Old identifier → the one there is now. Only words that nothing else in the package is rightly called by:
# `turn` (of a dialogue), `cell` (of a table) and `seal` (of a page) are not here, nor `Context` and `Rows`,
# which say too little.
REPLACED = {
    # the C++ core
    "Census": "BigramCounts",
    "Gauge": "SignalCounter",
    "PhraseFinder": "PhraseMatcher",
    "SkeletonTable": "ComparisonKeyTable",
    "TwinFinder": "DuplicateVerifier",
    "census": "bigram_counts",
    # corpus
    "Accounts": "CorpusStats",
    "AllTaken": "ShardSet",
    "Intake": "IngestTask",
    "Kept": "KeptDocument",
    "Shelf": "ShardWriter",
    "Strip": "BoilerplateRemoval",
    "Taken": "ShardReader",
    "accounts": "stats",
    "skeleton": "comparison_key",
    "skeletons": "comparison_keys",
    "survey": "select",
    "tidy": "repair_and_normalize",
    "untidy": "needs_normalization",
    # planning and sizing
    "BANDWIDTH_SHARE": "BANDWIDTH_EFFICIENCY",
    "Dial": "Sizing",
    "MATRIX_SHARE": "MATRIX_EFFICIENCY",
    "NETWORK_SHARE": "NETWORK_EFFICIENCY",
    "Probe": "StepMeasurement",
    "Room": "MemoryBudget",
    "SharedRoom": "ShardedMemoryBudget",
    "StepShape": "StepSpec",
    "_OnTable": "SpecSheetEstimator",
    "_OnThis": "MeasuredEstimator",
    "_gib": "memory_size",
    "_settled": "_fit_micro_batch",
    "apply_dial": "apply_sizing",
    "dial": "sizing",
    "dial_rows": "sizing_rows",
    "dial_text": "sizing_text",
    "on_dial": "on_sizing",
    "room_for_training": "training_memory_budget",
    "shared_room": "sharded_budget",
    "step_shape": "step_spec",
    # experiments
    "Cell": "Trial",
    "CellPool": "TrialPool",
    "CellSpec": "TrialSpec",
    "Ground": "SharedData",
    "file_ground": "file_data",
    "ground": "shared_data",
    "probe_cell": "measure_trial",
    "recipe_ground": "recipe_data",
    "series_cell": "train_series",
    "train_cell": "train_trial",
    # devices
    "Trap": "KnownIssue",
    "has_own_memory": "is_discrete",
    "keep_freed_memory": "allocator_keep_freed",
    "traits": "device_capabilities",
    "traps": "known_issues",
    # model, inference, serving
    "Delta": "ChunkDelta",
    "REMAKE_WIDTH": "RECOMPUTE_QK_WIDTH",
    "Ticket": "RequestHandle",
    "_admit": "_schedule_prefill",
    "_drop_cancelled": "_evict_cancelled",
    "_model_directory": "resolve_model_dir",
    "compile_trunk": "compile_decoder",
    "feed_forward": "intermediate_size",
    "frugal": "recompute_qk",
    "key_value_heads": "num_key_value_heads",
    "remakes": "recompute_in_backward",
    "run_trunk": "run_decoder",
    # training and stages
    "ALONE": "SINGLE_PROCESS",
    "BradleyTerry": "PairwiseRewardLoss",
    "DataParallel": "DDPStrategy",
    "IGNORE": "IGNORE_INDEX",
    "NextToken": "NextTokenLoss",
    "PolicyGradient": "GRPOLoss",
    "Saver": "CheckpointWriter",
    "Share": "DataShard",
    "Sharded": "FSDPStrategy",
    "Team": "ProcessGroup",
    "WHOLE": "FULL",
    "_Launched": "PendingStep",
    "_Run": "Trainer",
    "anchor_steps": "permanent_checkpoint_interval",
    "by_first": "run_on_rank0",
    "by_owners": "distributed_muon",
    "does_not_fit": "out_of_memory_error",
    "fingerprint": "config_hash",
    "full_state": "full_state_dict",
    "no_way_back": "no_checkpoint_error",
    "other_data": "data_mismatch_error",
    "out_of_step": "desync_error",
    "per_document": "per_sequence_loss",
    "read_back": "collect_metrics",
    "require_same": "assert_replicas_equal",
    # pipeline
    "Life": "RecipeRun",
    "Workshop": "RunContext",
}


def identifiers(tree: ast.AST) -> set[str]:
    """What a file names: variables, attributes, functions, classes, parameters, keyword arguments,
    imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg) or isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found |= {*node.name.split("."), *([node.asname] if node.asname else [])}
    return found


@pytest.fixture(scope="module")
def named() -> dict[Path, set[str]]:
    return {path: identifiers(ast.parse(path.read_text(encoding="utf-8"))) for path in FILES}


def test_old_names_do_not_come_back(named: dict[Path, set[str]]) -> None:
    back = {
        f"{path.relative_to(SOURCE)}: {old} is {REPLACED[old]} now"
        for path, names in named.items()
        for old in names & REPLACED.keys()
    }
    assert not back, "\n".join(sorted(back))


def test_new_names_are_there(named: dict[Path, set[str]]) -> None:
    everything = set().union(*named.values())
    missing = {f"{old} → {new}" for old, new in REPLACED.items() if new not in everything}
    assert not missing, "\n".join(sorted(missing))


@pytest.mark.parametrize(
    "text",
    [
        "class Shelf: ...",
        "def f(accounts): ...",
        "f(on_dial=1)",
        "a.census",
        "import a.by_owners",
        "from a import b as Gauge",
        "async def tidy(): ...",
        "for dial in (): ...",
    ],
)
def test_every_kind_of_name_is_seen(text: str) -> None:
    assert len(identifiers(ast.parse(text)) & REPLACED.keys()) == 1


def test_words_of_texts_and_comments_are_not_names() -> None:
    assert not identifiers(ast.parse('"""The census of a Shelf."""\nx = "dial"  # tidy')) & REPLACED.keys()
