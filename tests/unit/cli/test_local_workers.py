"""The devices and CPU threads that the workers of a search get."""

from __future__ import annotations

import pytest

from optlayers.cli.local_workers import Resources, allocate, parse_devices
from optlayers.cli.search import _first_index
from optlayers.errors import InputError
from optlayers.storage import heartbeat

GPUS = ["cuda:0", "cuda:1", "cuda:2"]


@pytest.mark.parametrize(
    ("text", "gpus", "devices"),
    [
        (None, GPUS, GPUS),
        (None, [], ["cpu"]),
        ("cuda", GPUS, GPUS),
        ("0,2", GPUS, ["cuda:0", "cuda:2"]),
        (" cuda:1 ", GPUS, ["cuda:1"]),
        ("cpu", GPUS, ["cpu"]),
    ],
)
def test_devices_are_all_there_are_or_those_named(
    text: str | None, gpus: list[str], devices: list[str]
) -> None:
    assert parse_devices(text, gpus) == devices


@pytest.mark.parametrize(
    ("text", "gpus", "words"),
    [
        ("cuda:3", GPUS, "'cuda:3'; choose from those here: cpu, cuda:0, cuda:1, cuda:2"),
        ("cuda", [], "'cuda'; choose from those here: cpu$"),
        (",", GPUS, "--devices is ','; name cpu, or each GPU once"),
        ("0,cuda:0", GPUS, "--per-device"),
        ("cpu,0", GPUS, "name cpu, or each GPU"),
        ("tpu", GPUS, "'tpu'; choose from"),
        ("CPU", [], "'CPU'; choose from"),
    ],
)
def test_devices_that_do_not_exist_are_refused(text: str, gpus: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_devices(text, gpus)


def test_each_gpu_gets_one_worker_and_several_only_when_asked() -> None:
    assert [p.device for p in allocate(GPUS, None, None, 8)] == GPUS
    assert [p.device for p in allocate(GPUS, 2, None, 8)] == GPUS[:2]
    with pytest.raises(InputError, match=r"--workers is 4, and .* take 3; .* add --per-device 2"):
        allocate(GPUS, 4, None, 8)
    assert [p.device for p in allocate(GPUS, 4, 2, 8)] == [*GPUS, "cuda:0"]
    assert [p.device for p in allocate(GPUS[:1], None, 2, 8)] == ["cuda:0", "cuda:0"]


def test_the_cores_of_a_cpu_are_divided() -> None:
    assert allocate(["cpu"], 2, None, 5) == [Resources("cpu", 3), Resources("cpu", 2)]
    assert allocate(["cpu"], None, None, 3) == [Resources("cpu", 1)] * 3
    assert len(allocate(["cpu"], None, None, 64)) == 8
    assert allocate(["cpu"], 4, None, 2) == [Resources("cpu", 1)] * 4


def test_searches_on_several_machines_seed_their_workers_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    firsts = set()
    for host in ("node-1", "node-2", "node-3"):
        monkeypatch.setattr(heartbeat, "host_name", lambda host=host: host)
        assert _first_index("sqlite:///optuna.db") == 0
        firsts.add(_first_index("postgresql+psycopg://host/db"))
    assert len(firsts) == 3
    assert all(first % 1000 == 0 for first in firsts)
