from __future__ import annotations

import itertools
from math import comb

import pytest

from optlayers.errors import InputError
from optlayers.layerset import LayerSet, LayerSpace, all_layer_sets, param_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3,7", (3, 7)),
        (" 7 , 3 ", (3, 7)),
        ("[3, 7]", (3, 7)),
        ("", ()),
        ("[]", ()),
        ("0", (0,)),
        ("all", tuple(range(8))),
    ],
)
def test_text_is_read(text: str, expected: tuple[int, ...]) -> None:
    assert LayerSet.parse(text, 8).indices == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "'x': expected indices with commas between, such as 3,7"),
        ("3;7", "'3;7': expected indices"),
        ("3,,7", "'3,,7': expected indices"),
        ("3.5", "'3.5': expected indices"),
        ("[3,7", "'[3,7': expected indices"),
        ("1_0", "'1_0': expected indices"),
        ("\u0663", "expected indices"),
        ("9" * 5000, "expected indices"),
        ("3,3", "'3,3': a layer is named twice"),
        ("-1", "layer -1: a layer index is 0 or more"),
        ("8", "layer 8: the models have 8 layers, so an index is 0 to 7"),
    ],
)
def test_text_that_is_no_layer_set_is_one_line(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        LayerSet.parse(text, 8)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_layers_need_the_number_of_layers() -> None:
    with pytest.raises(InputError, match="number of layers is not known"):
        LayerSet.parse("all")
    assert LayerSet.parse("99").indices == (99,)


def test_what_is_printed_is_read_again() -> None:
    for layers in all_layer_sets(6, 0, 6):
        assert LayerSet.parse(str(layers), 6) == layers


def test_order_and_repeats_do_not_make_another_set() -> None:
    assert LayerSet((7, 3, 3)) == LayerSet.of(3, 7)
    assert hash(LayerSet((7, 3))) == hash(LayerSet.of(3, 7))
    assert len(LayerSet.of(7, 3)) == 2
    assert 3 in LayerSet.of(7, 3)
    assert 4 not in LayerSet.of(7, 3)
    assert list(LayerSet.of(7, 3)) == [3, 7]


def test_a_set_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        LayerSet.of(1).indices = (2,)  # type: ignore[misc]


def test_params_name_every_layer_and_come_back() -> None:
    layers = LayerSet.of(0, 11)
    params = layers.to_params(12)
    assert list(params) == [param_name(i) for i in range(12)]
    assert params["layer_00"] == params["layer_11"] == "donor"
    assert list(params.values()).count("base") == 10
    assert LayerSet.from_params({**params, "layer_x": "donor", "rate": 0.1}) == layers


def test_layers_beyond_the_hundredth_have_params_too() -> None:
    layers = LayerSet.of(7, 100, 119)
    assert LayerSet.from_params(layers.to_params(120)) == layers


def test_params_of_a_layer_that_does_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="layer 6"):
        LayerSet.of(6).to_params(6)


@pytest.mark.parametrize("layers", [(), (2,), (0, 3), (1, 2, 4)])
@pytest.mark.parametrize(("minimum", "maximum"), [(0, 3), (1, 3), (2, 2), (1, 6)])
def test_neighbours_are_all_sets_one_step_away_within_the_budget(
    layers: tuple[int, ...], minimum: int, maximum: int
) -> None:
    mine = LayerSet(layers)

    def one_step(other: LayerSet) -> bool:
        added, removed = set(other) - set(mine), set(mine) - set(other)
        return (len(added), len(removed)) in ((1, 0), (0, 1), (1, 1))

    if not minimum <= len(mine) <= maximum:
        return
    expected = [other for other in all_layer_sets(6, minimum, maximum) if one_step(other)]
    assert LayerSpace(6, minimum, maximum).neighbours(mine) == sorted(expected)


def test_enumeration_is_complete_and_small_sets_come_first() -> None:
    found = list(all_layer_sets(7, 1, 3))
    assert len(found) == len(set(found)) == sum(comb(7, k) for k in (1, 2, 3))
    assert all(len(a) <= len(b) for a, b in itertools.pairwise(found))
    assert sum(1 for _ in all_layer_sets(32, 2, 4)) == 41_416
