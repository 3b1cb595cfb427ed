from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest

from optlayers.errors import InputError
from optlayers.layerset import LayerSet, LayerSpace, param_name

DONORS = ("a", "b", "c")
SEVERAL = LayerSpace(5, 1, 3, DONORS)
SETS_OF_SEVERAL = list(SEVERAL)


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
    with pytest.raises(InputError, match="layers 'all': the number of layers is not known"):
        LayerSet.parse("all")
    assert LayerSet.parse("99").indices == (99,)
    with pytest.raises(InputError, match="number of layers is not known"):
        list(LayerSpace())


@pytest.mark.parametrize("space", [LayerSpace(6), LayerSpace(4, donors=DONORS)])
def test_what_is_printed_is_read_again(space: LayerSpace) -> None:
    for layers in space:
        assert space.parse(space.text(layers)) == layers
        assert space.from_params(space.params(layers)) == layers
        if len(space.donors) == 1:
            assert str(layers) == space.text(layers)
            assert LayerSet.from_params(space.params(layers)) == layers


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


def test_params_name_every_layer() -> None:
    params = LayerSpace(120).params(LayerSet.of(0, 11, 100))
    assert list(params) == [param_name(i) for i in range(120)]
    assert params["layer_00"] == params["layer_11"] == params["layer_100"] == "donor"
    assert list(params.values()).count("base") == 117
    others = {"layer_x": "donor", "rate": 0.1}
    assert LayerSet.from_params({**params, **others}) == LayerSet.of(0, 11, 100)


def test_params_of_a_layer_that_does_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="layer 6"):
        LayerSpace(6).params(LayerSet.of(6))


@pytest.mark.parametrize("layers", [(), (2,), (0, 3), (1, 2, 4)])
@pytest.mark.parametrize(("minimum", "maximum"), [(0, 3), (1, 3), (2, 2), (1, 6)])
def test_neighbours_are_all_sets_one_step_away_within_the_budget(
    layers: tuple[int, ...], minimum: int, maximum: int
) -> None:
    mine, space = LayerSet(layers), LayerSpace(6, minimum, maximum)

    def one_step(other: LayerSet) -> bool:
        added, removed = set(other) - set(mine), set(mine) - set(other)
        return (len(added), len(removed)) in ((1, 0), (0, 1), (1, 1))

    if mine in space:
        assert space.neighbours(mine) == sorted(filter(one_step, space))


def test_a_neighbour_may_take_a_layer_from_another_donor() -> None:
    mine = LayerSet.of(3)
    near = SEVERAL.neighbours(mine)
    assert {LayerSet.of(4), LayerSet.of(5), LayerSet.of(0), LayerSet.of(3, 6)} <= set(near)
    assert all(layers in SEVERAL for layers in near)
    for other in SETS_OF_SEVERAL:
        added, gone = set(other) - set(mine), set(mine) - set(other)
        assert (other in near) == ((len(added), len(gone)) in ((1, 0), (1, 1), (0, 1)))


@pytest.mark.parametrize("space", [LayerSpace(7, 1, 3), LayerSpace(4, 2, 3, DONORS)])
def test_a_space_lists_and_holds_every_set_of_the_budget_small_ones_first(
    space: LayerSpace,
) -> None:
    found, n = list(space), space.n_donors
    sizes = range(space.min_layers, space.max_layers + 1)
    assert space.size == len(found) == len(set(found))
    assert space.size == sum(comb(space.n_layers, k) * n**k for k in sizes)
    assert all(len(a) <= len(b) for a, b in itertools.pairwise(found))
    assert all(layers in space for layers in found)


def test_a_space_holds_no_other_set() -> None:
    space = LayerSpace(7, 2, 4)
    assert LayerSet.of(1) not in space
    assert LayerSet.of(1, 7) not in space
    assert LayerSet.of(3, 4) not in SEVERAL  # layer 1 from two donors
    assert LayerSet.of(15) not in SEVERAL
    assert LayerSpace(32, 2, 4).size == 41_416


@pytest.mark.parametrize(
    ("n_layers", "minimum", "maximum"), [(0, 1, 1), (4, 3, 2), (4, 1, 5), (4, -1, 2)]
)
def test_a_budget_that_does_not_fit_is_refused(n_layers: int, minimum: int, maximum: int) -> None:
    with pytest.raises(InputError):
        LayerSpace(n_layers, minimum, maximum)


@pytest.mark.parametrize("space", [LayerSpace(9, 1, 3), SEVERAL])
def test_random_sets_are_of_the_space_until_all_are_seen(space: LayerSpace) -> None:
    rng, sets = np.random.default_rng(0), list(space)
    drawn = {space.random(rng, space.random_size(rng)) for _ in range(20 * len(sets))}
    assert drawn <= set(sets)
    assert len(drawn) > 0.9 * len(sets)
    assert space.random_unseen(rng, {s.indices for s in sets[:-1]}) == sets[-1]
    assert space.random_unseen(rng, {s.indices for s in sets}) is None


def test_sets_of_several_donors_have_their_names() -> None:
    layers = LayerSet.of(1, 9)
    assert SEVERAL.text(layers) == "0@b,3@a"
    assert SEVERAL.labels(layers) == ["0@b", "3@a"]
    assert SEVERAL.origins(layers) == {0: 1, 3: 0}
    assert SEVERAL.parse("3@a, 0@b") == layers
    assert SEVERAL.parse("all@c") == SEVERAL.whole("c") == LayerSet.of(2, 5, 8, 11, 14)
    assert list(SEVERAL.params(layers).values()) == ["b", "base", "base", "a", "base"]
    assert LayerSpace(8).labels(LayerSet.of(7, 3)) == [3, 7]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3", "layers '3': it does not say which donor; write a layer as 3@a or 3@b or 3@c"),
        ("3@x", "layers '3@x': there is no donor 'x'; write a layer as 3@a"),
        ("all@x", "there is no donor 'x'"),
        ("1@a,1@b", "a layer is named twice"),
        ("7@a", "layer 7: the models have 5 layers"),
        ("x@a", "such as 3@a,7@b"),
    ],
)
def test_text_that_names_no_donor_of_the_study_is_one_line(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        SEVERAL.parse(text)
    assert words in str(caught.value)


def test_free_choices_are_of_layers_that_are_not_in_the_set() -> None:
    free = SEVERAL.free(SEVERAL.parse("0@a,2@c,4@a"))
    assert [SEVERAL.layer_of(i) for i in free] == [1, 1, 1, 3, 3, 3]
