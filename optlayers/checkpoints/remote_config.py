"""A look at a model's config, without its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from transformers import PreTrainedConfig

from optlayers.checkpoints.fetch import fetched_folder, local_folder, told
from optlayers.errors import ModelError
from optlayers.models.families import config_from_dict, family_of


@dataclass(frozen=True)
class Peek:
    """A model as far as its `config.json` tells."""

    name: str
    config: PreTrainedConfig

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return int(self.config.num_hidden_layers)


def peek(where: str, revision: str | None = None) -> Peek:
    """Read `config.json` of a folder or hub id; of the hub nothing else is fetched.

    Raises `ModelError` for a model that is not there, is gated, or has no adapter.
    """
    folder = local_folder(where) or fetched_folder(where)
    if folder is not None:
        path = folder / "config.json"
    else:
        with told(where, revision):
            try:
                path = Path(hf_hub_download(where, "config.json", revision=revision))
            except LocalEntryNotFoundError:
                raise  # the hub cannot be reached
            except EntryNotFoundError:
                raise ModelError(
                    f"model {where}: it has no config.json; name a model of transformers"
                ) from None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        config = config_from_dict(data)
        family_of(config)
    except FileNotFoundError:
        raise ModelError(
            f"model {where}: {path} is missing; name a Hugging Face model folder or a hub id"
        ) from None
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        StrictDataclassError,
    ) as error:
        why = " ".join(str(error).split())
        raise ModelError(f"model {where}: config.json: {why}") from None
    return Peek(where, config)
