"""A node is lost, its answers or the wire: the other goes on from the last step saved, on the same losses."""

from __future__ import annotations

import sys

import pytest

from tests.launch import elastic
from tests.launch.machines import Machines, why_not

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def namespaces():
    if why := why_not():
        pytest.skip(f"network namespaces: {why}")


@pytest.fixture(scope="module")
def world(namespaces, tmp_path_factory):
    place = tmp_path_factory.mktemp("elastic")
    config = elastic.build_world(place)
    return place, config, elastic.undisturbed(config, place / "alone")


def test_two_machines_hear_each_other_until_the_wire_is_cut(namespaces, tmp_path):
    listen = (
        f"import socket; s = socket.create_server(('{elastic.ADDRESSES[1]}', 5000)); "
        "[s.accept() for _ in range(9)]"
    )
    speak = f"import socket; socket.create_connection(('{elastic.ADDRESSES[1]}', 5000), 2)"
    with Machines() as machines:
        machines.start(1, [sys.executable, "-c", listen], tmp_path / "log")

        def reached() -> bool:
            return machines.start(0, [sys.executable, "-c", speak], tmp_path / "log").wait() == 0

        elastic.wait_for(reached, 20, "the other machine", tmp_path)
        machines.cut()
        assert not reached()


@pytest.mark.parametrize("fault", elastic.FAULTS)
def test_training_goes_on_without_the_lost_machine(world, fault):
    place, config, losses = world
    outcome = elastic.disturbed(fault, config, place / fault)
    print(elastic.report(outcome, losses))
    assert outcome.resumed >= outcome.saved > 0
    assert outcome.seconds <= elastic.TIMEOUT + 20
    assert sorted(outcome.losses) == list(range(1, elastic.STEPS + 1))
    assert all(outcome.losses[step] == pytest.approx(loss, abs=1e-6) for step, loss in losses.items())
