"""A Llamba student of a Llama-like donor: the donor with discrete Mamba-2 mixers for attention.

Shapes: E hidden size, H heads of width P, N state size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from optlayers.checkpoints.reader import ModelConfig
from optlayers.errors import InputError, ModelError
from optlayers.models.families import FAMILIES, embedding_rows
from optlayers.models.llamba import BLOCK_EPS, DiscreteMamba2, LlambaConfig, LlambaForCausalLM

# Model types whose layers are Llama's, apart from their attention.
CONVERTIBLE = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
LONGEST = 256.0  # tokens that the slowest head remembers at first; the fastest, one


def student_config(donor: ModelConfig, state: int) -> LlambaConfig:
    """The config of the student; heads and groups are the donor's attention heads.

    Raises `ModelError` for a donor that Llamba blocks cannot hold, naming the field.
    """
    config: Any = donor.config
    if config.model_type not in CONVERTIBLE:
        raise ModelError(
            f"donor {donor.name}: model_type {config.model_type!r} cannot be converted; choose one "
            f"of {', '.join(CONVERTIBLE)}"
        )
    heads, width = int(config.num_attention_heads), int(config.hidden_size)
    if not math.isclose(config.rms_norm_eps, BLOCK_EPS, rel_tol=1e-3):
        raise ModelError(
            f"donor {donor.name}: rms_norm_eps is {config.rms_norm_eps:g}, and Llamba's layers "
            f"have {BLOCK_EPS:g}; choose a donor with that value"
        )
    if width % heads:
        raise ModelError(
            f"donor {donor.name}: hidden_size {width} is not a multiple of num_attention_heads "
            f"{heads}; choose another donor"
        )
    if not 1 <= state <= 256:
        raise InputError(f"--state {state}: give 1 to 256")
    vocabulary = embedding_rows(config)
    return LlambaConfig(
        vocab_size=vocabulary,
        d_model=width,
        n_layer=donor.n_layers,
        tie_embeddings=bool(config.tie_word_embeddings),
        pad_vocab_size_multiple=8 if vocabulary % 8 == 0 else 1,
        norm_epsilon=float(config.rms_norm_eps),
        mlp_cfg={
            "intermediate_size": int(config.intermediate_size),
            "bias": bool(getattr(config, "mlp_bias", False)),
            "act_fn": config.hidden_act,
        },
        ssm_cfg={"d_state": state, "n_v_heads": heads, "n_qk_heads": heads},
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def build_student(donor: Any, config: LlambaConfig) -> LlambaForCausalLM:
    """The student of a loaded donor, of its dtype and device, which shares all other weights.

    Its mixers are not initialized, and alone have gradients.
    """
    with torch.device("meta"):
        empty = LlambaForCausalLM(config)
    student: Any = empty.to(donor.dtype).eval()
    donor_family, family = FAMILIES[donor.config.model_type], FAMILIES["llamba"]
    for end in ("embedding", "norm", "head"):
        source = donor.get_submodule(getattr(donor_family, end))
        student.get_submodule(getattr(family, end)).load_state_dict(
            source.state_dict(), assign=True
        )
    student.tie_weights()
    layers = donor.get_submodule(donor_family.layers)
    for mine, theirs in zip(student.backbone.layers, layers, strict=True):
        for part in ("input_layernorm", "post_attention_layernorm", "mlp"):
            getattr(mine, part).load_state_dict(getattr(theirs, part).state_dict(), assign=True)
        mine.mixer.to_empty(device=donor.device)
    student.requires_grad_(False)
    for layer in student.backbone.layers:
        layer.mixer.requires_grad_(True)
    made: LlambaForCausalLM = student
    return made


@torch.no_grad()
def initialize(
    mixer: DiscreteMamba2, attention: nn.Module, x: torch.Tensor, target: torch.Tensor
) -> None:
    """Begin as a moving average of the attention's values, with another horizon for each head.

    x, target [B, T, E]: a sample of the attention's input and output. Values and outputs are the
    attention's where they have the mixer's shape, else random; the output begins no larger than
    the target.
    """
    # Llamba's projection has no bias, so the constant part of its input stands in for one.
    mean = x.float().mean((0, 1))
    weight, rows = mixer.in_proj.weight, split_rows(mixer)
    for part in (mixer.in_proj, mixer.out_proj):
        part.weight.normal_(0.0, part.in_features**-0.5)
    values: Any = attention.get_submodule("v_proj")
    outputs: Any = attention.get_submodule("o_proj")
    if outputs.weight.shape == mixer.out_proj.weight.shape:
        shared = values.weight.unflatten(0, (-1, mixer.width))
        repeats = mixer.heads // shared.shape[0]
        weight[rows["x"]] = shared.repeat_interleave(repeats, dim=0).flatten(0, 1)
        mixer.out_proj.weight.copy_(outputs.weight)
    # Gates begin open (silu(1.2785) is 1) and hardly depend on the input.
    weight[rows["z"]] *= 0.1
    mixer.z_bias.fill_(1.2785)
    mixer.D.zero_()
    horizon = torch.logspace(0.0, math.log2(LONGEST), mixer.heads, base=2.0).to(mean)
    wanted = torch.expm1(1.0 / horizon).log()  # its softplus is 1 / horizon
    constant = mean / mean.square().sum().clamp(min=1e-6)
    weight[rows["A"]] *= 0.1
    weight[rows["A"]] += torch.outer(wanted, constant).to(weight.dtype)
    # The convolution begins as the identity, with B C^T about the weight of a moving average.
    size = mixer.state_size
    fresh = (-torch.expm1(-1.0 / horizon)).repeat_interleave(size)
    weight[rows["B"]] *= 0.5
    weight[rows["C"]] *= 0.5 * fresh[:, None].to(weight.dtype)
    bias = torch.zeros(mixer.conv_channels).to(mean)
    bias[rows["B"]] = size**-0.5
    bias[rows["C"]] = size**-0.5 * fresh
    mixer.conv1d.weight.zero_()
    mixer.conv1d.weight[:, 0, -1] = 1.0
    if mixer.conv1d.bias is not None:
        mixer.conv1d.bias.copy_(bias)
    size_now, size_wanted = mixer(x).float().norm(), target.float().norm()
    mixer.out_proj.weight *= (
        (size_wanted / size_now.clamp(min=1e-12)).clamp(max=1.0).to(weight.dtype)
    )


def split_rows(mixer: DiscreteMamba2) -> dict[str, slice]:
    """The rows of the input projection that make x, B, C, z and A."""
    narrow = mixer.groups * mixer.state_size
    sizes = {"x": mixer.inner, "B": narrow, "C": narrow, "z": mixer.inner, "A": mixer.heads}
    found, start = {}, 0
    for name, size in sizes.items():
        found[name], start = slice(start, start + size), start + size
    return found
