"""What a checkpoint will hold: each tensor's place in the source files, and the files they go to.

Nothing is read here but the headers of the sources.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.tensorfile import Entry
from optlayers.config.graft import WHOLE, Graft
from optlayers.layerset import LayerSet
from optlayers.models.families import family_of

SHARD_BYTES = 2_000_000_000

Shard = list[tuple[str, Entry]]


@dataclass(frozen=True)
class Piece:
    """One tensor of the target, and where it comes from."""

    name: str
    source: Checkpoint
    source_name: str


@dataclass
class Shelf:
    """Shards that earlier exports wrote, so that later ones link to them.

    With a shelf, every layer is a file of its own. `files` holds each with its SHA-256; `linked`
    counts the bytes that were not written.
    """

    files: dict[tuple[Any, ...], tuple[Path, str]] = field(default_factory=dict)
    linked: int = 0


def plan_pieces(parents: Parents, layers: LayerSet, graft: Graft = WHOLE) -> list[Piece]:
    """Every tensor of the hybrid in the order of the model; nothing is read yet."""
    base, donors = parents.base, parents.donors
    chosen = graft.space().origins(layers)
    mine = family_of(base.config)
    pieces: list[Piece] = []

    def below(source: Checkpoint, prefix: str, target: str, half: str = "layer") -> None:
        names = sorted(source.tensors_named_below(prefix))
        if half != "layer":
            wanted = family_of(source.config).halves.names(half)
            names = [name for name in names if name.split(".")[0] in wanted]
        pieces.extend(Piece(f"{target}.{n}", source, f"{prefix}.{n}") for n in names)

    below(base, mine.embedding, "model.embed_tokens")
    for i in range(base.n_layers):
        mine_at, target = f"{mine.layers}.{i}", f"model.layers.{i}"
        if i not in chosen:
            below(base, mine_at, target)
            continue
        donor = donors[chosen[i]]
        theirs_at = f"{family_of(donor.config).layers}.{graft.source(i, chosen[i])}"
        if graft.swap == "layer":
            below(donor, theirs_at, target)
        else:
            for half in ("mixer", "mlp"):
                source, at = (donor, theirs_at) if half == graft.swap else (base, mine_at)
                below(source, at, f"{target}.{half}", half)
    below(base, mine.norm, "model.norm")
    below(base, mine.head, "lm_head")
    return pieces


def plan_shards(pieces: list[Piece], dtype: str | None, by_layer: bool) -> list[Shard]:
    """The tensors of each file: up to `SHARD_BYTES` together, or one layer and the ends apart."""
    shards: dict[object, Shard] = {}
    number, filled = 0, 0
    for piece in pieces:
        entry = piece.source.entry(piece.source_name)
        size = entry.converted(dtype)[1]
        parts = piece.name.split(".")
        key: object = parts[2] if parts[1] == "layers" else "ends"
        if not by_layer:
            if filled and filled + size > SHARD_BYTES:
                number, filled = number + 1, 0
            key, filled = number, filled + size
        shards.setdefault(key, []).append((piece.name, entry))
    return list(shards.values())


def size_of(shard: Shard, dtype: str | None) -> int:
    """Bytes of a shard's tensors, once they are converted."""
    return sum(entry.converted(dtype)[1] for _, entry in shard)


def key_of(shard: Shard, dtype: str | None) -> tuple[Any, ...]:
    """What tells one shard from another: names, sources and dtype."""
    return (dtype, tuple((name, entry.file, entry.start) for name, entry in shard))


def bytes_to_write(plans: Iterable[list[Shard]], dtype: str | None, shelf: Shelf | None) -> int:
    """Bytes of weights that some checkpoints take, one after the other.

    With a shelf, equal shards count once, and those that it holds not at all.
    """
    shards = [shard for shards in plans for shard in shards]
    if shelf is not None:
        apart = {key_of(shard, dtype): shard for shard in shards}
        shards = [shard for key, shard in apart.items() if key not in shelf.files]
    return sum(size_of(shard, dtype) for shard in shards)
