"""The parents of a hybrid: opening the base and donors of a study, and whether they fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from optlayers.checkpoints.fetch import decoder_layers, everything, open_model
from optlayers.checkpoints.reader import Checkpoint, ModelConfig
from optlayers.config.graft import WHOLE, Graft
from optlayers.config.study import StudyDefinition
from optlayers.errors import InputError, ModelError
from optlayers.layerset import LayerSet
from optlayers.models.families import family_of


@dataclass(frozen=True)
class Parents:
    """The base and the donors of a hybrid, in the order of the study.

    An origin numbers them: 0 is the base, 1 the first donor.
    """

    base: Checkpoint
    donors: tuple[Checkpoint, ...]

    @property
    def all(self) -> tuple[Checkpoint, ...]:
        """Base and donors, by origin."""
        return (self.base, *self.donors)

    @property
    def n_layers(self) -> int:
        """Number of decoder layers of the base, and so of every hybrid."""
        return self.base.n_layers

    @property
    def notes(self) -> list[str]:
        """What is unusual in these models, a line each."""
        ends = [differing_ends(self.base, donor) for donor in self.donors]
        return [note for note in (*(parent.note for parent in self.all), *ends) if note]

    def check(self, graft: Graft = WHOLE) -> None:
        """`check_pair` for the base and each donor."""
        for place, donor in enumerate(self.donors):
            check_pair(self.base, donor, graft, place)


def check_pair(base: ModelConfig, donor: ModelConfig, graft: Graft = WHOLE, place: int = 0) -> None:
    """Raise `ModelError` unless the two have the same hidden size and number of layers.

    With a map of layers the donor may have another number of layers; raises `InputError` where
    the map does not fit. place: the place of the donor among the donors.
    """
    graft.check(base.n_layers, donor.n_layers, place)
    for field, attribute in (("layers", "num_hidden_layers"), ("hidden size", "hidden_size")):
        if attribute == "num_hidden_layers" and graft.maps[place] is not None:
            continue
        mine, theirs = getattr(base.config, attribute), getattr(donor.config, attribute)
        if mine != theirs:
            raise ModelError(
                f"base {base.name} has {mine} {field} and donor {donor.name} has {theirs}; "
                "choose two models of one depth and width"
                + (", or give a donor_map" if field == "layers" else "")
            )


def open_parents(definition: StudyDefinition, layers: LayerSet | None = None) -> Parents:
    """Base and donors of a study, checked against each other and the study; no weights are read.

    layers: the layer set that will be read (None: any); weight files without its layers are not
    fetched. Raises `ModelError` for models that do not fit, `InputError` for a study that does not
    fit the models.
    """
    base = open_model(definition.resolve(definition.base.model), definition.base.revision)
    # The divergence from the first donor needs all of its weights.
    whole = layers is None and any(task.metric == "kl" for task in definition.tasks)
    donors = tuple(
        open_model(
            definition.resolve(spec.model),
            spec.revision,
            everything
            if whole and place == 0
            else decoder_layers(definition.graft.sources(layers, place)),
        )
        for place, spec in enumerate(definition.donor_specs)
    )
    parents = Parents(base, donors)
    check_study(definition, parents)
    return parents


def check_study(definition: StudyDefinition, parents: Parents) -> None:
    """Check models against each other and the study; raises as `open_parents`."""
    parents.check(definition.graft)
    n_layers = parents.n_layers
    if definition.layers.max > n_layers:
        raise InputError(
            f"layers.max is {definition.layers.max}, and the models have {n_layers} layers; "
            "lower it"
        )
    scores = definition.prior.single_layer_scores
    if scores is not None and len(scores) != n_layers:
        raise InputError(
            f"prior.single_layer_scores: {len(scores)} scores, and the models have {n_layers} "
            "layers; give one score for each layer"
        )
    for known in definition.prior_layer_sets:
        try:
            definition.graft.space(n_layers).check(known)
        except InputError as error:
            raise InputError(f"prior.layer_sets: {error}") from None


def open_for(definition: StudyDefinition, layers: str) -> tuple[Parents, LayerSet]:
    """As `open_parents`, for a layer set given as text; raises `InputError` if it does not fit."""
    needed = None if "all" in layers else definition.graft.space().parse(layers)
    parents = open_parents(definition, needed)
    return parents, definition.graft.space(parents.n_layers).parse(layers)


def differing_ends(base: ModelConfig, donor: ModelConfig) -> str | None:
    """How base and donor differ outside their layers, in one line; None if they do not."""
    found = []
    mine, theirs = base.config.vocab_size, donor.config.vocab_size
    if mine != theirs:
        found.append(f"vocabularies of {mine} and {theirs} tokens")
    with torch.device("meta"):
        norms = [family_of(c.config).build_norm(c.config) for c in (base, donor)]
        tables = [family_of(c.config).build_embedding(c.config) for c in (base, donor)]
    if _norm_kind(norms[0]) != _norm_kind(norms[1]):
        found.append(f"norms {norms[0]} and {norms[1]}")
    if getattr(tables[0], "scale", 1.0) != getattr(tables[1], "scale", 1.0):
        found.append("embeddings of different scale")
    if not found:
        return None
    return f"base and donor differ at the ends ({'; '.join(found)}): the base's are used"


def _norm_kind(norm: nn.Module) -> tuple[str, bool]:
    """Shape and epsilon of a norm, and whether it multiplies by its weight plus one."""
    return str(norm).partition("(")[2], "Gemma" in type(norm).__name__
