"""`launch/skypilot.yaml` and `launch/kubernetes.yaml`, as far as they go without a cloud: their form, and
their commands run on this machine."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.launch.schemas import SKYPILOT, TRAIN_JOB, TRAINING_RUNTIME, faults

LAUNCH = Path(__file__).parents[2] / "launch"
SKY = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
RUNTIME, JOB = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
SCHEMAS = [(SKY, SKYPILOT), (RUNTIME, TRAINING_RUNTIME), (JOB, TRAIN_JOB)]


@pytest.mark.parametrize(("value", "schema"), SCHEMAS, ids=["skypilot", "runtime", "job"])
def test_the_form_is_the_documented_one(value, schema):
    assert not faults(value, schema)


@pytest.mark.parametrize(("value", "schema"), SCHEMAS, ids=["skypilot", "runtime", "job"])
def test_the_form_is_looked_at(value, schema):
    """Renaming or retyping any field is noticed."""

    def places(node, path=()):
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            yield (*path, key)
            yield from places(node[key], (*path, key))

    fixed = re.compile(r"envs|labels|file_mounts|limits")  # maps with keys of the user's
    for path in places(value):
        if isinstance(path[-1], int) or any(fixed.fullmatch(str(part)) for part in path[:-1]):
            continue
        for spoil in (
            lambda holder, key: holder.update({f"{key}X": holder.pop(key)}),
            lambda holder, key: holder.update({key: 1.5}),
        ):
            broken = copy.deepcopy(value)
            holder = broken
            for part in path[:-1]:
                holder = holder[part]
            spoil(holder, path[-1])
            assert faults(broken, schema), path


def test_names_of_the_cluster_fit_together():
    assert JOB["spec"]["runtimeRef"] == {"kind": RUNTIME["kind"], "name": RUNTIME["metadata"]["name"]}
    (node,) = RUNTIME["spec"]["template"]["spec"]["replicatedJobs"]
    assert (
        node["name"] == "node"
        and node["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    )
    pod = node["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "node"
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    grace = int(
        next(one["value"] for one in container["env"] if one["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    )
    assert grace < pod["terminationGracePeriodSeconds"]
    for name in (RUNTIME["metadata"]["name"], JOB["metadata"]["name"]):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)


def test_scripts_of_skypilot_are_bash_and_know_their_variables():
    given = {
        *SKY["envs"],
        "SKYPILOT_NODE_IPS",
        "SKYPILOT_NODE_RANK",
        "SKYPILOT_NUM_NODES",
        "SKYPILOT_NUM_GPUS_PER_NODE",
    }
    for name in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=SKY[name], text=True, check=True)
        used = set(re.findall(r"\$\{?(\w+)", SKY[name])) - set(re.findall(r"^\s*(\w+)=", SKY[name], re.M))
        assert used <= given, used - given
    assert SKY["file_mounts"]["/bucket"]["name"] == "${BUCKET}" and "/bucket/" in SKY["run"]


def run_nodes(place: Path, command: list[str], environments: list[dict[str, str]]) -> list[dict]:
    """Run a node's command in each environment at once; what the ranks wrote."""
    nodes = [
        subprocess.Popen(command, env=os.environ | environment, cwd=place, stderr=subprocess.PIPE, text=True)
        for environment in environments
    ]
    for node in nodes:
        _, said = node.communicate(timeout=60)
        assert node.returncode == 0, said
    return [json.loads(line) for line in (place / "out" / "log.jsonl").read_text().splitlines()]


def real_parser(place: Path, monkeypatch, environment: dict[str, str]) -> list:
    """What the real torchrun understands of the calls, with the variables of a node, some of which are its
    defaults."""
    from torch.distributed.run import get_args_parser

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return [
        get_args_parser().parse_args(json.loads(line))
        for line in (place / "torchrun.jsonl").read_text().splitlines()
    ]


def test_skypilot_runs_a_rank_on_each_node(stand_ins, monkeypatch):
    (stand_ins / "config").write_text("3")
    script = SKY["run"].replace("/bucket/models/$NAME", "out")
    nodes = [
        {
            "SKYPILOT_NODE_IPS": "10.1.2.3\n10.1.2.4",
            "SKYPILOT_NODE_RANK": str(rank),
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        }
        for rank in (0, 1)
    ]
    nodes = [
        node | {name: str(value) for name, value in SKY["envs"].items()} | {"CONFIG": "config"}
        for node in nodes
    ]
    starts = run_nodes(stand_ins, ["bash", "-c", script], nodes)
    assert sorted((start["stage"], start["rank"], start["world"]) for start in starts) == [
        ("pretrain", 0, 2),
        ("pretrain", 1, 2),
    ]
    calls = real_parser(stand_ins, monkeypatch, {})
    assert {call.node_rank for call in calls} == {0, 1} and {
        (call.nnodes, call.master_addr, call.master_port) for call in calls
    } == {("2", "10.1.2.3", 29500)}
    assert all(call.module and call.training_script == "hanlin" for call in calls)


def test_kubernetes_runs_a_rank_in_each_pod(stand_ins, monkeypatch):
    """With the variables that Kubeflow's torch plugin gives to each pod."""
    (stand_ins / "config").write_text("3")
    trainer = JOB["spec"]["trainer"]
    (script,) = trainer["args"]
    script = script.replace("/mnt/hanlin/pretrain.yaml", "config").replace("/mnt/hanlin/models/zh", "out")
    shared = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": "hanlin-pretrain-node-0-0.hanlin-pretrain",
        "PET_MASTER_PORT": "29500",
    }
    starts = run_nodes(
        stand_ins, [*trainer["command"], script], [shared | {"PET_NODE_RANK": str(rank)} for rank in (0, 1)]
    )
    assert sorted((start["rank"], start["world"]) for start in starts) == [(0, 2), (1, 2)]
    for call in real_parser(stand_ins, monkeypatch, shared | {"PET_NODE_RANK": "1"}):
        assert (call.nnodes, call.nproc_per_node, call.node_rank, call.master_addr) == (
            "2",
            "1",
            1,
            shared["PET_MASTER_ADDR"],
        )
        assert call.training_script_args[:2] == ["pretrain", "--config"]
