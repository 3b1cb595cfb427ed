"""The hybrid: a causal language model whose layers come from a base and one or more donors.

Embedding, final norm and head are the base's. An exported hybrid loads with
`AutoModelForCausalLM.from_pretrained`. Imports torch, transformers and its neighbours in this
folder only, since these files are copied into exported checkpoints. Shapes: B batch, T tokens,
E hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import can_return_tuple

from .families import (
    attention_of,
    config_from_dict,
    embedding_rows,
    family_of,
    restore_buffers,
)
from .generation import (
    RecurrentCache,
    RecurrentGenerationMixin,
    causal_lm_forward,
    decoder_output,
)
from .parts import LayerInputs, SplitLayer, keep_modules, set_layer_idx

HALVES = ("mixer", "mlp")


class HybridConfig(PreTrainedConfig):
    """The configs of the parents, and which layers come from which donor.

    swap: what is taken, `layer`, `mixer` or `mlp`. donor_map: the donor's index for each base layer
    (None: the same). other_configs, other_maps: those of the donors after the first. givers: for
    each of donor_layers, its donor, counted from 0 (None: the first for all).
    """

    model_type = "optlayers_hybrid"

    def __init__(
        self,
        base_config: dict[str, Any] | None = None,
        donor_config: dict[str, Any] | None = None,
        donor_layers: list[int] | None = None,
        use_cache: bool = True,
        swap: str = "layer",
        donor_map: list[int] | None = None,
        other_configs: list[dict[str, Any]] | None = None,
        other_maps: list[list[int] | None] | None = None,
        givers: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.base_config = base_config or {"model_type": "llamba"}
        self.donor_config = donor_config or {"model_type": "llama"}
        self.donor_layers = sorted(donor_layers or [])
        self.swap = swap
        self.donor_map = donor_map
        self.other_configs = other_configs or None
        self.other_maps = other_maps or None
        self.givers = givers or None
        self.use_cache = use_cache
        parents = self.parents()
        base = parents[0]
        self.vocab_size = embedding_rows(base)
        self.hidden_size = base.hidden_size
        self.num_hidden_layers = base.num_hidden_layers
        limits = [getattr(c, "max_position_embeddings", None) for c in parents]
        self.max_position_embeddings = min((n for n in limits if n), default=None)
        kwargs.setdefault("tie_word_embeddings", bool(base.tie_word_embeddings))
        super().__init__(**kwargs)

    @classmethod
    def of(
        cls,
        parents: Sequence[dict[str, Any]],
        maps: Sequence[list[int] | None] = (None,),
        **options: Any,
    ) -> HybridConfig:
        """From the configs of base and donors, and the map of each donor."""
        base, donor, *others = parents
        first, *rest = maps
        return cls(
            base_config=base,
            donor_config=donor,
            donor_map=first,
            other_configs=others,
            other_maps=rest,
            **options,
        )

    def parents(self) -> list[PreTrainedConfig]:
        """The configs of base and donors."""
        every = [self.base_config, self.donor_config, *(self.other_configs or [])]
        return [config_from_dict(data) for data in every]

    def source(self, layer: int, half: str) -> tuple[int, int]:
        """Origin (0: base, 1: first donor) and index there of a layer's `mixer` or `mlp`."""
        if layer not in self.donor_layers or self.swap not in ("layer", half):
            return 0, layer
        giver = self.givers[self.donor_layers.index(layer)] if self.givers else 0
        places = [self.donor_map, *(self.other_maps or [None] * giver)][giver]
        return giver + 1, places[layer] if places else layer

    @property
    def layer_types(self) -> list[str]:
        """The kind of each layer, as transformers' caches name it."""
        kinds = [family_of(config).kinds(config) for config in self.parents()]
        sources = [self.source(i, "mixer") for i in range(self.num_hidden_layers)]
        return [kinds[parent][index] for parent, index in sources]

    @property
    def sliding_windows(self) -> list[int | None]:
        """The attention window of each layer, or None."""
        windows = [getattr(config, "sliding_window", None) for config in self.parents()]
        return [
            windows[self.source(i, "mixer")[0]] if kind == "sliding_attention" else None
            for i, kind in enumerate(self.layer_types)
        ]

    @property
    def sliding_window(self) -> int | None:
        """The first window: transformers reads one for the whole model."""
        return next((window for window in self.sliding_windows if window is not None), None)


class HybridPreTrainedModel(PreTrainedModel):
    """Settings of the hybrid classes for transformers."""

    config_class = HybridConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # A recurrent state cannot be rolled back, as assisted generation needs.
    _is_stateful = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        restore_buffers(module)


class HybridModel(HybridPreTrainedModel):
    """Embedding, layers of the parents, final norm."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        parents = config.parents()
        for parent in parents:
            # Attention modules read the implementation from their own config.
            parent._attn_implementation = attention_of(parent, config._attn_implementation)
        self.parent_configs = parents
        self.families = [family_of(parent) for parent in parents]
        depth = config.num_hidden_layers
        mixers, mlps = ([config.source(i, half) for i in range(depth)] for half in HALVES)
        self.origins = [(mixers[i][0], mlps[i][0]) for i in range(depth)]
        # The inputs of a layer depend on the parent and the kind of its mixer.
        self.needs = list(zip((parent for parent, _ in mixers), config.layer_types, strict=True))
        self.embed_tokens = self.families[0].build_embedding(parents[0])
        self.layers = nn.ModuleList()
        for i in range(depth):
            (parent, index), (other, _) = mixers[i], mlps[i]
            layer = self.families[parent].build_layer(parents[parent], index)
            if other != parent:
                rest = self.families[other].build_layer(parents[other], mlps[i][1])
                layer = SplitLayer(
                    keep_modules(layer, self.families[parent].halves.modules("mixer")),
                    keep_modules(rest, self.families[other].halves.modules("mlp")),
                )
            self.layers.append(set_layer_idx(layer, i))
        self.norm = self.families[0].build_norm(parents[0])
        self.rotary = nn.ModuleDict()
        for parent in sorted({parent for parent, _ in mixers}):
            build = self.families[parent].build_rotary
            rotary = build(parents[parent]) if build else None
            if rotary is not None:
                self.rotary[str(parent)] = rotary
        self._no_split_modules = sorted({type(layer).__name__ for layer in self.layers})
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, T, E] of input_ids [B, T].

        output_hidden_states: also return the input of every layer and the output of the last norm.
        """
        h = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = RecurrentCache(self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(h.shape[1], device=h.device) + seen)[None]
        inputs: dict[tuple[int, str], LayerInputs] = {}
        rotaries = dict(self.rotary.items())
        for layer, (parent, kind) in enumerate(self.needs):
            if (parent, kind) not in inputs:
                inputs[parent, kind] = self.families[parent].inputs(
                    self.parent_configs[parent],
                    rotaries.get(str(parent)),
                    kind,
                    h,
                    position_ids,
                    attention_mask,
                    past_key_values,
                    layer,
                )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        for module, (mixer, mlp), need in zip(self.layers, self.origins, self.needs, strict=True):
            if states is not None:
                states.append(h)
            if mixer == mlp:
                h = self.families[mixer].call(module, h, inputs[need])
            else:
                halves = self.families[mixer].halves, self.families[mlp].halves
                h = module(h, halves, **vars(inputs[need]))
        return decoder_output(self.norm(h), past_key_values, states)


class HybridForCausalLM(HybridPreTrainedModel, RecurrentGenerationMixin):
    """The hybrid with its head."""

    forward = causal_lm_forward

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.model = HybridModel(config)
        bias = bool(config.base_config.get("lm_head_bias", False))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=bias)
        self.post_init()

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        """What the base does to the logits after its head."""
        return self.model.families[0].finish(self.model.parent_configs[0], logits)
