"""GeneticSearch: the pure core of the sampler, individuals in and layer sets out."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import numpy as np

from optlayers.errors import InputError
from optlayers.layerset import LayerSet, LayerSpace, SeenSets
from optlayers.search.individual import Individual
from optlayers.search.initial import initial_set
from optlayers.search.operators import mutate, repair, uniform_crossover
from optlayers.search.pairs import PairSets, pair_share
from optlayers.search.patterns import Pattern, mine_patterns
from optlayers.search.selection import select_parents, tournament
from optlayers.search.surrogate import Surrogate

# Attempts to breed an unseen child before the neighbours of the parents are searched.
_TRIES = 30
# Paused sets that compete with the children.
MOST_PAUSED = 300


class GeneticSearch:
    """A stateless genetic search over layer sets.

    Proposals depend only on the individuals, the claimed sets and the random generator. A
    generation is a counter, not a barrier: proposal i belongs to generation
    i // `population_size`; its parents are what earlier generations have finished by then.
    Raises `InputError` for settings out of range.
    """

    def __init__(
        self,
        *,
        space: LayerSpace,
        population_size: int = 40,
        crossover_prob: float = 0.8,
        mutation_prob: float = 0.5,
        tournament_size: int = 3,
        n_elites: int = 3,
        known_sets: Sequence[LayerSet] = (),
        guide_prob: float = 0.3,
        model: bool = True,
        pool_size: int = 96,
    ) -> None:
        for name, count, least in (
            ("population_size", population_size, 2),
            ("tournament_size", tournament_size, 1),
            ("n_elites", n_elites, 0),
            ("pool_size", pool_size, 8),
        ):
            if count < least:
                raise InputError(f"{name} is {count}; expected {least} or more")
        for name, share in (
            ("crossover_prob", crossover_prob),
            ("mutation_prob", mutation_prob),
            ("guide_prob", guide_prob),
        ):
            if not 0.0 <= share <= 1.0:
                raise InputError(f"{name} is {share}; expected 0 to 1")
        self.space = space
        self.population_size = population_size
        self.crossover_prob = crossover_prob
        self.mutation_prob = mutation_prob
        self.tournament_size = tournament_size
        self.n_elites = n_elites
        self.known_sets = tuple(known_sets)
        self.guide_prob = guide_prob
        self.model = model
        self.pool_size = pool_size

    def propose(
        self,
        individuals: Sequence[Individual],
        claimed: Collection[LayerSet],
        rng: np.random.Generator,
        k: int,
        *,
        excluded: Collection[LayerSet] = (),
        single_layer_scores: Sequence[float] | None = None,
        known: Collection[tuple[int, ...]] = (),
        explored: int | None = None,
        paused: Collection[LayerSet] = (),
    ) -> list[tuple[LayerSet, int | None]]:
        """At most k distinct sets: unseen sets of the budget, each with its generation, or sets of
        `paused` (evaluated on few questions so far), without one.

        Unseen: no individual, not `claimed` (being evaluated for a generation), not
        `excluded` (anything else). Fewer than k only where the space is exhausted.
        `single_layer_scores`: float [choices], larger for better, 0 or more. Where the
        individuals are a sample of a long history, `known` holds the indices of all its sets and
        `explored` counts those with a generation.
        """
        seen = {i.layers.indices for i in individuals} | set(known)
        pending = {layers.indices for layers in claimed} - seen
        bred = sum(i.generation >= 0 for i in individuals) if explored is None else explored
        place = bred + len(pending)
        seen |= pending
        seen.update(layers.indices for layers in excluded)
        found: list[tuple[LayerSet, int | None]] = []
        model = self._model(individuals, single_layer_scores)
        if model is not None:
            for layers in self._ranked(
                model, individuals, seen, place, rng, k, single_layer_scores, paused
            ):
                if layers.indices in seen:
                    found.append((layers, None))
                    continue
                found.append((layers, place // self.population_size))
                seen.add(layers.indices)
                place += 1
        parents: list[Individual] = []
        patterns: list[Pattern] = []
        bred_for = -1
        for _ in range(k - len(found)):
            generation, slot = divmod(place, self.population_size)
            if generation != bred_for:
                bred_for = generation
                parents = self.parents(individuals, generation)
                patterns = self.patterns(individuals, generation)
            if generation > 0 and len(parents) >= 2:
                child = self._offspring(parents, patterns, seen, rng)
            else:
                child = initial_set(
                    slot,
                    rng,
                    space=self.space,
                    seen=seen,
                    population_size=self.population_size,
                    known_sets=self.known_sets,
                    single_layer_scores=single_layer_scores,
                )
            if child is None:
                break
            found.append((child, generation))
            seen.add(child.indices)
            place += 1
        return found

    def parents(self, individuals: Sequence[Individual], generation: int) -> list[Individual]:
        """The parents of a generation, best first, selected from all earlier generations."""
        return select_parents(
            [i for i in individuals if i.generation < generation],
            population_size=self.population_size,
            n_elites=self.n_elites,
        )

    def patterns(self, individuals: Sequence[Individual], generation: int) -> list[Pattern]:
        """What the best sets of earlier generations have in common; mutation follows it."""
        return mine_patterns([i for i in individuals if i.generation < generation])

    def _model(
        self, individuals: Sequence[Individual], single_layer_scores: Sequence[float] | None
    ) -> Surrogate | None:
        """The surrogate, or None until as many sets as layers are known."""
        known = list(individuals)
        held = {i.layers.indices for i in individuals}
        if single_layer_scores is not None:
            singles = [LayerSet.of(layer) for layer in range(self.space.n_choices)]
            known += [
                Individual(layers, score)
                for layers, score in zip(singles, single_layer_scores, strict=True)
                if layers.indices not in held
            ]
        if not self.model or len(known) < max(2, self.space.n_choices):
            return None
        return Surrogate(known, self.space.n_choices)

    def _ranked(
        self,
        model: Surrogate,
        individuals: Sequence[Individual],
        seen: SeenSets,
        place: int,
        rng: np.random.Generator,
        k: int,
        single_layer_scores: Sequence[float] | None,
        paused: Collection[LayerSet] = (),
    ) -> list[LayerSet]:
        """At most k unseen sets, chosen by the surrogate from a larger pool."""
        space = self.space
        first = [s for s in self.known_sets if s.indices not in seen and s in space][:k]
        taken = set(seen) | {layers.indices for layers in first}
        pool: dict[LayerSet, None] = {}
        generation = max(1, place // self.population_size)
        parents = self.parents(individuals, generation)
        if len(parents) >= 2:
            patterns = self.patterns(individuals, generation)
            for _ in range(self.pool_size):
                child = self._child(parents, patterns, taken, rng)
                if child is not None:
                    pool[child] = None
        for slot in rng.integers(0, self.population_size, self.pool_size // 4):
            fresh = initial_set(
                int(slot),
                rng,
                space=space,
                seen=taken,
                population_size=self.population_size,
                known_sets=self.known_sets,
                single_layer_scores=single_layer_scores,
            )
            if fresh is not None:
                pool[fresh] = None
        # Hill-climb the model's mean: its optimum may be far from every parent.
        top = [i.layers for i in parents[:3]]
        for _ in range(space.max_layers):
            near = {layers.indices: layers for centre in top for layers in space.neighbours(centre)}
            if not near:
                break
            asked = [near[indices] for indices in sorted(near)]
            mean = model.mean(asked)
            order = np.argsort(-mean, kind="stable")
            for i in order[: self.pool_size // 2]:
                if asked[int(i)].indices not in taken:
                    pool[asked[int(i)]] = None
            top = [asked[int(i)] for i in order[:3]]
        pool.update(dict.fromkeys(_likeliest(paused, model)))
        paired = self._paired(
            model, individuals, taken, place, int(rng.integers(2**63)), k - len(first)
        )
        chosen = model.choose(list(pool), k - len(first), rng)
        return first + _fill_gaps(chosen, paired)

    def _paired(
        self,
        model: Surrogate,
        individuals: Sequence[Individual],
        taken: SeenSets,
        place: int,
        seed: int,
        k: int,
    ) -> list[LayerSet | None]:
        """For each of k proposals a set that tests pairs, or None for an ordinary proposal.

        The first ones do not depend on k.
        """
        share = pair_share(individuals, place, self.population_size)
        tests_pairs = (np.random.default_rng([seed, 0]).random(k) < share).tolist()
        if not any(tests_pairs):
            return [None] * k
        best = max(individuals, key=lambda i: i.fitness).layers
        rng = np.random.default_rng([seed, 1])
        found = iter(PairSets(self.space, model, best, taken).draw(sum(tests_pairs), taken, rng))
        return [next(found, None) if test else None for test in tests_pairs]

    def _offspring(
        self,
        parents: Sequence[Individual],
        patterns: Sequence[Pattern],
        seen: SeenSets,
        rng: np.random.Generator,
    ) -> LayerSet | None:
        """An unseen child; then an unseen neighbour of a parent, best first; then any unseen."""
        for _ in range(_TRIES):
            child = self._child(parents, patterns, seen, rng)
            if child is not None:
                return child
        space = self.space
        for parent in parents:
            near = space.neighbours(parent.layers)
            fresh = [layers for layers in near if layers.indices not in seen]
            if fresh:
                return fresh[int(rng.integers(len(fresh)))]
        return space.random_unseen(rng, seen)

    def _child(
        self,
        parents: Sequence[Individual],
        patterns: Sequence[Pattern],
        seen: SeenSets,
        rng: np.random.Generator,
    ) -> LayerSet | None:
        """A child of parents from tournaments; None if it is already known or out of the budget."""
        child = tournament(parents, rng, size=self.tournament_size).layers
        if rng.random() < self.crossover_prob:
            mate = tournament(parents, rng, size=self.tournament_size).layers
            child = repair(uniform_crossover(child, mate, rng), self.space, rng)
        # A child that is already known must change.
        if child.indices in seen or rng.random() < self.mutation_prob:
            child = mutate(child, self.space, patterns, rng, self.guide_prob)
        return child if child.indices not in seen and child in self.space else None


def _fill_gaps(chosen: Sequence[LayerSet], paired: Sequence[LayerSet | None]) -> list[LayerSet]:
    """`paired` with its gaps filled from `chosen`; no set twice."""
    found: dict[LayerSet, None] = {}
    left = iter(chosen)
    for layers in paired:
        fresh = (s for s in ([layers] if layers else left) if s not in found)
        found.update(dict.fromkeys(itertools.islice(fresh, 1)))
    return list(found)


def _likeliest(paused: Collection[LayerSet], model: Surrogate) -> Collection[LayerSet]:
    """At most `MOST_PAUSED` of the sets, the best by the model."""
    if len(paused) <= MOST_PAUSED:
        return paused
    asked = list(paused)
    order = np.argsort(-model.mean(asked), kind="stable")[:MOST_PAUSED]
    return [asked[int(i)] for i in order]
