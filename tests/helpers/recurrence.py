"""The Llamba block written a second time, token by token in float64, from the published facts.

It shares no code with `optlayers.models`: tensors come by their published names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight)


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def mixer(u: Array, w: dict[str, Array], ssm: dict[str, Any]) -> Array:
    """Discrete Mamba-2 on u [T, d_model]."""
    heads, groups, size = ssm["n_v_heads"], ssm["n_qk_heads"], ssm["d_state"]
    inner = w["mixer.z_bias"].shape[0]
    width, channels = inner // heads, inner + 2 * groups * size
    kernel, bias = w["mixer.conv1d.weight"][:, 0], w["mixer.conv1d.bias"]
    window = np.zeros((4, channels))
    state = np.zeros((heads, width, size))
    out = []
    for token in u:
        projected = w["mixer.in_proj.weight"] @ token
        xbc, z, a_log = np.split(projected, [channels, channels + inner])
        window = np.vstack([window[1:], xbc])
        convolved = (kernel.T * window).sum(0) + bias  # the identity follows
        x = convolved[:inner].reshape(heads, width)
        b = convolved[inner : inner + groups * size].reshape(groups, size)
        c = convolved[inner + groups * size :].reshape(groups, size)
        y = np.zeros((heads, width))
        for h in range(heads):
            g = h // (heads // groups)
            a = np.exp(-np.log1p(np.exp(a_log[h])))
            state[h] = a * state[h] + np.outer(x[h], b[g])
            y[h] = state[h] @ c[g] + w["mixer.D"][h] * x[h]
        gated = y.reshape(inner) * silu(z + w["mixer.z_bias"])
        out.append(w["mixer.out_proj.weight"] @ gated)
    return np.array(out)


def block(h: Array, w: dict[str, Array], ssm: dict[str, Any]) -> Array:
    """One layer on h [T, d_model]; the norms inside a block use 1e-5 whatever the config says."""
    h = h + mixer(rms_norm(h, w["input_layernorm.weight"], 1e-5), w, ssm)
    n = rms_norm(h, w["post_attention_layernorm.weight"], 1e-5)
    up = n @ w["mlp.up_proj.weight"].T
    gate = silu(n @ w["mlp.gate_proj.weight"].T)
    return np.asarray(h + (gate * up) @ w["mlp.down_proj.weight"].T)


def logits(tokens: list[int], w: dict[str, Array], config: dict[str, Any]) -> Array:
    """The whole model on one sequence; logits [T, rows]."""
    h = w["backbone.embedding.weight"][tokens]
    for i in range(config["n_layer"]):
        start = f"backbone.layers.{i}."
        layer = {k.removeprefix(start): v for k, v in w.items() if k.startswith(start)}
        h = block(h, layer, config["ssm_cfg"])
    h = rms_norm(h, w["backbone.final_layernorm.weight"], config["norm_epsilon"])
    head = w.get("lm_head.weight", w["backbone.embedding.weight"])
    return np.asarray(h @ head.T)


def published_checkpoint(
    tied: bool, seed: int = 0, eps: float = 1e-5
) -> tuple[dict[str, Any], dict[str, Array]]:
    """A tiny random checkpoint with the config keys and tensor names of the published ones."""
    d, layers, state, heads, groups, mlp, vocab = 16, 2, 4, 4, 2, 24, 45
    rows = 48  # the vocabulary padded to a multiple of 8
    channels = d + 2 * groups * state
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"backbone.embedding.weight": (rows, d)}
    for i in range(layers):
        shapes |= {
            f"backbone.layers.{i}.{name}": shape
            for name, shape in {
                "input_layernorm.weight": (d,),
                "mixer.in_proj.weight": (channels + d + heads, d),
                "mixer.z_bias": (d,),
                "mixer.conv1d.weight": (channels, 1, 4),
                "mixer.conv1d.bias": (channels,),
                "mixer.D": (heads,),
                "mixer.out_proj.weight": (d, d),
                "post_attention_layernorm.weight": (d,),
                "mlp.gate_proj.weight": (mlp, d),
                "mlp.up_proj.weight": (mlp, d),
                "mlp.down_proj.weight": (d, mlp),
            }.items()
        }
    shapes["backbone.final_layernorm.weight"] = (d,)
    if not tied:
        shapes["lm_head.weight"] = (rows, d)
    # Rounded to float32, as the file will hold them.
    weights = {
        name: rng.normal(size=shape).astype(np.float32).astype(np.float64) * 0.5
        for name, shape in shapes.items()
    }
    config: dict[str, Any] = {
        "vocab_size": vocab,
        "d_model": d,
        "n_layer": layers,
        "tie_embeddings": tied,
        "pad_vocab_size_multiple": 8,
        "lm_head_bias": False,
        "norm_epsilon": eps,
        "mlp_cfg": {"intermediate_size": mlp, "bias": False, "act_fn": "silu"},
        "ssm_cfg": {
            "d_state": state,
            "n_v_heads": heads,
            "n_qk_heads": groups,
            "expand": 1,
            "chunk_size": 128,
            "activation": "identity",
            "bias": False,
        },
    }
    return config, weights
