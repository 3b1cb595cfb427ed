"""Tiny random models of one shape, a tokenizer for them, a study over a pair, and exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.writer import CheckpointWriter
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from optlayers.models import LlambaConfig, LlambaForCausalLM
from studies.demo.build.train_pair import train_tokenizer
from tests.helpers.paths import DEMO_TASKS

LAYERS, WIDTH, VOCAB = 6, 32, 1024
# Settings of a tiny model of any family with attention.
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
TOKENS = [[5, 6, 7, 8, 9, 10, 11]]

STUDY = """\
# optlayers search --study {file}
name: tiny
base: {{model: {pair}/base}}
donor: {{model: {pair}/donor}}
layers: {{min: 1, max: 3}}
tasks: [{{name: demo}}]
task_path: {tasks}
questions: {{fast: 2, full: 4}}
explore: {{population: 6, generations: 2, patience: 3}}
validate: {{top: 3}}
refine: {{top: 1, verify: 2, rounds: 2}}
"""


def train_tiny_tokenizer() -> Any:
    """A byte-level BPE on the demo's questions; any text can be encoded."""
    texts = []
    for path in sorted(DEMO_TASKS.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            doc = json.loads(line)
            choices = "".join(f"\n{x}. {c}" for x, c in zip("ABCD", doc["choices"], strict=False))
            texts.append(f"{doc.get('passage', '')}\n{doc['question']}{choices}\nAnswer: A")
    return train_tokenizer(texts, VOCAB, 512)


def loud(model: Any, seed: int, std: float = 0.2) -> Any:
    """Give every matrix of a model weights large enough that each layer matters; returns it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator) * std
            if name.endswith(("layernorm.weight", "norm.weight", ".D")):
                parameter.copy_(1 + noise)
            else:
                parameter.copy_(noise)
    return model.eval()


def tiny_llama(seed: int = 1, tied: bool = False, **more: Any) -> Any:
    """A random Llama of `LAYERS` layers, `WIDTH` wide; `more` changes its config."""
    settings = {
        **SHAPE,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        **more,
    }
    return loud(LlamaForCausalLM(LlamaConfig(**settings)), seed)


def tiny_llamba(seed: int = 2, tied: bool = False, **ssm: Any) -> Any:
    """A random Llamba of the same shape; `ssm` changes its `ssm_cfg`."""
    config = LlambaConfig(
        vocab_size=VOCAB,
        d_model=WIDTH,
        n_layer=LAYERS,
        tie_embeddings=tied,
        norm_epsilon=1e-5,
        mlp_cfg={"intermediate_size": 48},
        ssm_cfg={"d_state": 8, "n_v_heads": 4, "n_qk_heads": 2, **ssm},
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return loud(LlambaForCausalLM(config), seed)


def share_ends(base: Any, donor: Any) -> None:
    """Give the base the donor's embedding, final norm and head."""
    base.backbone.embedding.load_state_dict(donor.model.embed_tokens.state_dict())
    base.backbone.final_layernorm.load_state_dict(donor.model.norm.state_dict())
    base.lm_head.load_state_dict(donor.lm_head.state_dict())


def make_tiny_pair(folder: Path) -> Path:
    """Write `base/` (Llamba) and `donor/` (Llama, with the tokenizer), with equal ends."""
    donor, base = tiny_llama(), tiny_llamba()
    share_ends(base, donor)
    donor.save_pretrained(folder / "donor")
    base.save_pretrained(folder / "base")
    train_tiny_tokenizer().save_pretrained(folder / "donor")
    return folder


def make_tiny_study(pair: Path) -> Path:
    """Write a study file over a pair and the demo's tasks; takes seconds to search."""
    path = pair / "tiny.yaml"
    path.write_text(STUDY.format(file=path.name, pair=pair, tasks=DEMO_TASKS), encoding="utf-8")
    return path


def parents_in(folder: Path) -> Parents:
    """The checkpoints in `base/` and `donor/` of a folder."""
    base, donor = (Checkpoint(name, folder / name) for name in ("base", "donor"))
    return Parents(base, (donor,))


def export(
    parents: Parents, layers: LayerSet, out: Path, documents: Any = None, **options: Any
) -> Path:
    """A checkpoint with the donor's tokenizer; options: of `CheckpointWriter`."""
    options.setdefault("tokenizer", parents.donors[0].folder)
    writer = CheckpointWriter(parents, **options)
    return writer.write(layers, out, documents)


def random_tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Token ids from 1 on, int64 [batch, length]."""
    return torch.randint(1, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def stack_logits(parents: Parents, layers: LayerSet) -> Any:
    """Logits of `TOKENS` from the layers of a pair."""
    stack = LayerStack.load(parents, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        h, inputs = stack.begin(torch.tensor(TOKENS))
        for layer in range(stack.n_layers):
            h = stack.run(layer, layer in layers, h, inputs)
        return stack.logits(h)


def model_logits(folder: Path) -> Any:
    """Logits of `TOKENS` from a checkpoint, loaded by transformers."""
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.tensor(TOKENS)).logits


def cache_bytes(model: Any, tokens: int) -> int:
    """Bytes of keys and values after so many tokens."""
    with torch.inference_mode():
        cache = model(torch.ones(1, tokens, dtype=torch.long), use_cache=True).past_key_values
    parts = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(part.nbytes for part in parts if part is not None)
