"""Which layers stay on the device."""

from __future__ import annotations

import pytest

from optlayers.errors import ModelError
from optlayers.inference.offload import GB, RESERVE, place

BASE, DONOR, ENDS = 486_000_000, 436_000_000, 2_100_000_000


def test_everything_stays_where_it_fits() -> None:
    placement = place((BASE, DONOR), 32, ENDS, 80 * GB)
    assert placement.resident == (32, 32)
    assert all(placement.stays(side, i) for side in (0, 1) for i in range(32))
    assert str(placement) == "31.6 GB of weights, 80.0 GB free: all layers on the device"


@pytest.mark.parametrize("free", [30, 24, 21, 18, 12, 7])
def test_resident_layers_fit_beside_the_slots(free: int) -> None:
    placement = place((BASE, DONOR), 32, ENDS, free * GB)
    kept = [sum(placement.stays(side, i) for i in range(32)) for side in (0, 1)]
    assert tuple(kept) == placement.resident
    slots = 2 * DONOR + (2 * BASE if kept[0] < 32 else 0)
    used = kept[0] * BASE + kept[1] * DONOR + slots + ENDS + RESERVE
    assert used <= free * GB
    assert used + max(BASE, DONOR) * 3 > free * GB
    assert "copied from host memory ahead of use" in str(placement)


def test_base_layers_stay_before_donor_layers() -> None:
    assert place((BASE, DONOR), 32, ENDS, 21 * GB).resident == (32, 1)
    assert place((BASE, DONOR), 32, ENDS, 18 * GB).resident[1] == 0


def test_too_little_memory_is_one_line_with_the_need() -> None:
    with pytest.raises(ModelError, match=r"needs at least 5\.9 GB .* 4\.0 GB are free; free some"):
        place((BASE, DONOR), 32, ENDS, 4 * GB)
