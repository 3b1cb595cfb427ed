from __future__ import annotations

import pytest

from optlayers.cli.placement import Place, parse_devices, places
from optlayers.cli.search import _first_index
from optlayers.errors import InputError
from optlayers.storage import heartbeat as liveness

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
        ("cuda:3", GPUS, "cuda:3 and there are cuda:0, cuda:1, cuda:2"),
        ("cuda", [], "no GPU here; use --devices cpu"),
        (",", GPUS, "names no device"),
        ("0,cuda:0", GPUS, "--per-device"),
        ("cpu,0", GPUS, "not both"),
        ("tpu", GPUS, "'tpu'; write cpu, or GPUs"),
        ("CPU", [], "'CPU'; write cpu"),
    ],
)
def test_devices_that_cannot_be_had_are_refused(text: str, gpus: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_devices(text, gpus)


def test_each_gpu_gets_one_worker_and_several_only_when_asked() -> None:
    assert [p.device for p in places(GPUS, None, None, 8)] == GPUS
    assert [p.device for p in places(GPUS, 2, None, 8)] == GPUS[:2]
    with pytest.raises(InputError, match=r"--workers is 4 and there is room for 3.*--per-device 2"):
        places(GPUS, 4, None, 8)
    assert [p.device for p in places(GPUS, 4, 2, 8)] == [*GPUS, "cuda:0"]
    assert [p.device for p in places(GPUS[:1], None, 2, 8)] == ["cuda:0", "cuda:0"]


def test_the_cores_of_a_cpu_are_divided() -> None:
    assert places(["cpu"], 2, None, 5) == [Place("cpu", 3), Place("cpu", 2)]
    assert places(["cpu"], None, None, 3) == [Place("cpu", 1)] * 3
    assert len(places(["cpu"], None, None, 64)) == 8
    assert places(["cpu"], 4, None, 2) == [Place("cpu", 1)] * 4


def test_searches_on_several_machines_seed_their_workers_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    firsts = set()
    for host in ("node-1", "node-2", "node-3"):
        monkeypatch.setattr(liveness, "host_name", lambda host=host: host)
        assert _first_index("sqlite:///optuna.db") == 0
        firsts.add(_first_index("postgresql+psycopg://host/db"))
    assert len(firsts) == 3
    assert all(first % 1000 == 0 for first in firsts)
