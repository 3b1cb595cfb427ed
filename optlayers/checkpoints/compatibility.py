"""Whether a base and a donor fit each other, from their configs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from optlayers.checkpoints.reader import Checkpoint
from optlayers.config.graft import WHOLE, Graft
from optlayers.errors import ModelError
from optlayers.models.families import family_of


def check_pair(base: Checkpoint, donor: Checkpoint, graft: Graft = WHOLE, place: int = 0) -> int:
    """Raise `ModelError` unless the two have one width and depth; the number of layers.

    With a map of layers the donor may be of another depth; `InputError` where the map does not fit.
    place: which of the donors it is.
    """
    graft.check(base.n_layers, donor.n_layers, place)
    for field, attribute in (("layers", "num_hidden_layers"), ("hidden size", "hidden_size")):
        if attribute == "num_hidden_layers" and graft.map_of(place) is not None:
            continue
        mine, theirs = getattr(base.config, attribute), getattr(donor.config, attribute)
        if mine != theirs:
            raise ModelError(
                f"base {base.name} has {mine} {field} and donor {donor.name} has {theirs}; "
                "choose two models of one depth and width"
                + (", or give a donor_map" if field == "layers" else "")
            )
    return int(base.config.num_hidden_layers)


def check_parents(parents: Sequence[Checkpoint], graft: Graft = WHOLE) -> int:
    """`check_pair` for a base and each of its donors; the number of layers."""
    base, *donors = parents
    for donor, checkpoint in enumerate(donors):
        check_pair(base, checkpoint, graft, donor)
    return int(base.config.num_hidden_layers)


def differing_ends(base: Checkpoint, donor: Checkpoint) -> str | None:
    """In a line, how base and donor differ before and after their layers; None: they do not."""
    found = []
    mine, theirs = base.config.vocab_size, donor.config.vocab_size
    if mine != theirs:
        found.append(f"vocabularies of {mine} and {theirs} tokens")
    with torch.device("meta"):
        norms = [family_of(c.config).build_norm(c.config) for c in (base, donor)]
        tables = [family_of(c.config).build_embedding(c.config) for c in (base, donor)]
    if str(norms[0]).partition("(")[2] != str(norms[1]).partition("(")[2] or _offset(
        norms[0]
    ) != _offset(norms[1]):
        found.append(f"norms {norms[0]} and {norms[1]}")
    if getattr(tables[0], "scale", 1.0) != getattr(tables[1], "scale", 1.0):
        found.append("embeddings of different scale")
    if not found:
        return None
    return f"base and donor differ at the ends ({'; '.join(found)}): the base's rule"


def _offset(norm: nn.Module) -> bool:
    """Whether a norm multiplies by its weight plus one."""
    return "Gemma" in type(norm).__name__
