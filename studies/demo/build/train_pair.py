"""Train the demo pair: a 16-layer Llama, and the same model with Mamba-2 mixers.

    python -m studies.demo.build.train_pair --out studies/demo

The donor learns lettered questions about facts and about made-up passages. The base takes its
embedding, norms and MLPs, and gets discrete Mamba-2 mixers in the published Llamba format, each
trained alone to turn the donor's input of a layer into the donor's output of that layer. It needs
an NVIDIA GPU for a few minutes; the seed fixes data and initial weights, while the order of
floating-point sums on the GPU makes two runs alike, not identical. The committed files are its
output.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from optlayers.models.llamba import LlambaConfig, LlambaForCausalLM
from studies.demo.build import questions as dq
from studies.demo.build.training_text import training_text

ROOT = Path(__file__).resolve().parents[3]

VOCAB, LENGTH, SPANS = 2048, 128, 16
END = "<|end|>"


@dataclass(frozen=True)
class DemoRecipe:
    """Everything that decides the outcome."""

    seed: int = 0
    layers: int = 16
    width: int = 128
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 256
    pool: int = 600_000
    batch: int = 512
    donor_steps: int = 22_000  # at most; it cools down as soon as every subject is learned
    donor_cool: int = 1500
    donor_lr: float = 2e-3
    learned: float = 0.98
    # Longer, and the base needs less of the donor. How much less differs from donor to donor, so
    # these are tried in turn until the pair shows the effect.
    mixer_steps: tuple[int, ...] = (400, 300, 200, 150, 100, 60)
    mixer_cool: int = 200
    mixer_lr: float = 3e-3
    mixer_batch: int = 256
    d_state: int = 2
    v_heads: int = 2
    qk_heads: int = 2


# ---------------------------------------------------------------------------- text


def train_tokenizer(
    texts: Sequence[str], vocabulary: int = VOCAB, length: int = 2048
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `vocabulary` tokens; any text can be encoded."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=END, model_max_length=length
    )


def _texts(job: tuple[int, int]) -> list[tuple[str, list[tuple[int, int]]]]:
    seed, count = job
    rng = random.Random(seed)
    return [training_text(rng) for _ in range(count)]


def make_texts(seed: int, count: int, workers: int) -> list[tuple[str, list[tuple[int, int]]]]:
    """`count` training texts with their supervised character spans, the same for any `workers`."""
    jobs = [(seed * 1_000_003 + i, count // 64) for i in range(64)]
    with multiprocessing.Pool(workers) as pool:
        return [text for part in pool.imap(_texts, jobs) for text in part]


def encode(
    tokenizer: PreTrainedTokenizerFast, texts: list[tuple[str, list[tuple[int, int]]]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Token ids [n, LENGTH] and supervised positions [n, SPANS] (-1 where none)."""
    core = tokenizer.backend_tokenizer
    ids = np.zeros((len(texts), LENGTH), dtype=np.int16)
    where = np.full((len(texts), SPANS), -1, dtype=np.int16)
    kept = 0
    for start in range(0, len(texts), 20_000):
        part = texts[start : start + 20_000]
        encodings = core.encode_batch([text for text, _ in part], add_special_tokens=False)
        for (_, spans), encoding in zip(part, encodings, strict=True):
            tokens = encoding.ids[:LENGTH]
            position, span = [], 0
            for index, (begin, end) in enumerate(encoding.offsets[:LENGTH]):
                while span < len(spans) and spans[span][1] <= begin:
                    span += 1
                if span < len(spans) and begin >= spans[span][0] and end <= spans[span][1]:
                    position.append(index)
            position = position[:SPANS]
            ids[kept, : len(tokens)] = tokens
            where[kept, : len(position)] = position
            kept += 1
    return ids[:kept], where[:kept]


# ---------------------------------------------------------------------------- models


def make_donor(recipe: DemoRecipe) -> LlamaForCausalLM:
    """The donor, untrained."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=recipe.width,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    donor: LlamaForCausalLM = LlamaForCausalLM(config)
    with torch.no_grad():
        # Each layer adds to the residual stream; small additions at first keep depth trainable.
        for layer in donor.model.layers:
            for output in (layer.self_attn.o_proj, layer.mlp.down_proj):
                output.weight.mul_((2 * recipe.layers) ** -0.5)
    return donor


def make_base(donor: LlamaForCausalLM, recipe: DemoRecipe) -> LlambaForCausalLM:
    """The donor with fresh Mamba-2 mixers in the place of attention."""
    torch.manual_seed(recipe.seed + 1)
    config = LlambaConfig(
        vocab_size=VOCAB,
        d_model=recipe.width,
        n_layer=recipe.layers,
        tie_embeddings=True,
        norm_epsilon=1e-5,
        mlp_cfg={"intermediate_size": recipe.intermediate},
        ssm_cfg={
            "d_state": recipe.d_state,
            "n_v_heads": recipe.v_heads,
            "n_qk_heads": recipe.qk_heads,
        },
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    base: Any = LlambaForCausalLM(config).to(donor.device)
    with torch.no_grad():
        base.backbone.embedding.weight.copy_(donor.model.embed_tokens.weight)
        base.backbone.final_layernorm.weight.copy_(donor.model.norm.weight)
        for mine, theirs in zip(base.backbone.layers, donor.model.layers, strict=True):
            for part in ("input_layernorm", "post_attention_layernorm", "mlp"):
                getattr(mine, part).load_state_dict(getattr(theirs, part).state_dict())
            mixer = mine.mixer
            torch.nn.init.normal_(mixer.in_proj.weight, std=recipe.width**-0.5)
            torch.nn.init.normal_(mixer.out_proj.weight, std=0.3 * recipe.width**-0.5)
            # Start from slow decay (softplus(-3) is 0.05 a token): a state that forgets at once
            # gets no gradient for what came long before.
            mixer.in_proj.weight[-recipe.v_heads :].mul_(0.3)
            torch.nn.init.zeros_(mixer.conv1d.bias)
            mixer.conv1d.weight.normal_(std=0.3)
            mixer.conv1d.weight[:, 0, -1] += 0.7
    base.tie_weights()
    made: LlambaForCausalLM = base
    return made


def rotary(donor: LlamaForCausalLM, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [1, length, head_dim] of the first positions."""
    positions = torch.arange(length, device=donor.device)[None]
    cos, sin = donor.model.rotary_emb(donor.model.embed_tokens.weight, position_ids=positions)
    return cos, sin


# ---------------------------------------------------------------------------- training


class Loop:
    """Repeats one training step, captured as a CUDA graph where there is a GPU.

    At this width a step is nearly all launch overhead; the graph removes it.
    """

    def __init__(
        self,
        loss: Callable[[], torch.Tensor],
        parameters: list[torch.nn.Parameter],
        peak_lr: float,
        steps: int,
        cool: int,
        weight_decay: float,
    ) -> None:
        self.loss, self.parameters, self.peak = loss, parameters, peak_lr
        self.warm, self.cool, self.cool_from = steps // 100 + 1, cool, steps - cool
        self.cuda = parameters[0].is_cuda
        self.lr = torch.tensor(0.0, device=parameters[0].device)
        self.optimizer = torch.optim.AdamW(
            parameters,
            lr=self.lr if self.cuda else 0.0,
            betas=(0.9, 0.95),
            weight_decay=weight_decay,
            capturable=self.cuda,
            fused=self.cuda,
        )

    def _step(self) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.parameters[0].device.type, torch.bfloat16, enabled=self.cuda):
            loss = self.loss()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        return loss.detach()

    def _rate(self, step: int) -> float:
        """Warm up, stay, cool down linearly: skills appear late and suddenly, at full rate."""
        up = min(1.0, (step + 1) / self.warm)
        down = min(1.0, (self.cool_from + self.cool - step) / self.cool)
        return self.peak * up * down

    def run(
        self, load: Callable[[int], None], watch: Callable[[int, float], bool], every: int
    ) -> None:
        """`load(step)` fills the static inputs; `watch(step, loss)`, now and then, is True when
        it is time to cool down."""
        graph = None
        step = 0
        while step < self.cool_from + self.cool:
            load(step)
            rate = self._rate(step)
            if self.cuda:
                self.lr.fill_(rate)
            else:
                self.optimizer.param_groups[0]["lr"] = rate
            if graph is None:
                if not self.cuda or step < 3:
                    stream = torch.cuda.Stream() if self.cuda else None  # type: ignore[no-untyped-call]
                    with torch.cuda.stream(stream) if stream else torch.enable_grad():
                        value = self._step()
                    if stream:
                        torch.cuda.current_stream().wait_stream(stream)
                else:
                    torch.cuda.synchronize()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        value = self._step()
            if graph is not None:
                graph.replay()
            step += 1
            if step % every == 0 and watch(step, float(value)) and step < self.cool_from:
                self.cool_from = step


def train_donor(
    donor: LlamaForCausalLM,
    ids: torch.Tensor,
    where: torch.Tensor,
    recipe: DemoRecipe,
    watch: Callable[[int, float], bool],
    compiled: bool = True,
) -> None:
    """Train on the supervised positions; ids [n, LENGTH] and where [n, SPANS] on the device."""
    device = ids.device
    cos, sin = rotary(donor, LENGTH)
    index = torch.zeros(recipe.batch, dtype=torch.long, device=device)
    rng = torch.Generator(device=device).manual_seed(recipe.seed)

    def one(layer: torch.nn.Module, h: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = layer(h, position_embeddings=(cos, sin), attention_mask=None)
        return out

    run = torch.compile(one) if compiled and device.type == "cuda" else one

    def loss() -> torch.Tensor:
        tokens, spots = ids[index].long(), where[index].long()
        h = donor.model.embed_tokens(tokens)
        for layer in donor.model.layers:
            h = run(layer, h)
        h = donor.model.norm(h)
        # The token at a supervised position is predicted from the one before.
        before = (spots - 1).clamp(min=0)
        picked = h.gather(1, before[..., None].expand(-1, -1, h.shape[-1]))
        target = tokens.gather(1, spots.clamp(min=0)).masked_fill(spots < 1, -100)
        logits = donor.lm_head(picked).float()
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)

    steps, cool = recipe.donor_steps, recipe.donor_cool
    loop = Loop(loss, list(donor.parameters()), recipe.donor_lr, steps, cool, 0.05)

    def load(step: int) -> None:
        index.copy_(torch.randint(len(ids), (recipe.batch,), generator=rng, device=device))

    loop.run(load, watch, 500)


def train_mixers(
    base: LlambaForCausalLM,
    donor: LlamaForCausalLM,
    ids: torch.Tensor,
    recipe: DemoRecipe,
    watch: Callable[[int, float], bool],
    steps: int,
    every: int = 500,
    compiled: bool = True,
) -> None:
    """Train every mixer alone: donor's layer input to donor's layer output, all layers at once."""
    device = ids.device
    cos, sin = rotary(donor, LENGTH)
    index = torch.zeros(recipe.mixer_batch, dtype=torch.long, device=device)
    rng = torch.Generator(device=device).manual_seed(recipe.seed + 1)
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    parameters = [p for name, p in base.named_parameters() if ".mixer." in name]
    for parameter in parameters:
        parameter.requires_grad_(True)

    def teach(layer: torch.nn.Module, h: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = layer(h, position_embeddings=(cos, sin), attention_mask=None)
        return out

    def learn(layer: torch.nn.Module, h: torch.Tensor, goal: torch.Tensor, real: torch.Tensor):  # type: ignore[no-untyped-def]
        error = (layer(h).float() - goal.float()).square() * real
        size = (goal.float() - h.float()).square() * real
        return error.sum() / size.sum().clamp(min=1e-6)

    if compiled and device.type == "cuda":
        teach, learn = torch.compile(teach), torch.compile(learn)

    def loss() -> torch.Tensor:
        tokens = ids[index].long()
        real = (tokens != 0)[..., None]
        total = torch.zeros((), device=device)
        h = donor.model.embed_tokens(tokens)
        for mine, theirs in zip(base.backbone.layers, donor.model.layers, strict=True):
            with torch.no_grad():
                out = teach(theirs, h)
            total = total + learn(mine, h, out, real)
            h = out
        return total

    cool = min(recipe.mixer_cool, steps // 2)
    loop = Loop(loss, parameters, recipe.mixer_lr, steps, cool, 0.0)

    def load(step: int) -> None:
        index.copy_(torch.randint(len(ids), (recipe.mixer_batch,), generator=rng, device=device))

    loop.run(load, watch, every)


# ---------------------------------------------------------------------------- looking


class Examination:
    """The test questions on the device, and the accuracy of any hybrid of the two models."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, tasks: Path, device: torch.device, limit: int
    ) -> None:
        prompts: list[str] = []
        self.answers: list[int] = []
        self.subject: list[str] = []
        for name in dq.SUBJECTS:
            lines = (tasks / f"{name}.jsonl").read_text("utf-8").split("\n")
            for line in filter(None, lines[:limit]):
                doc = json.loads(line)
                choices = tuple(doc["choices"])
                passage = doc.get("passage") or None
                question = dq.DemoQuestion(passage, doc["question"], choices, doc["answer"])
                prompts.append(dq.render(question))
                self.answers.append(question.answer_index)
                self.subject.append(name)
        encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in prompts]
        self.mean_tokens = float(np.mean([len(e) for e in encoded]))
        longest = max(map(len, encoded))
        self.ids = torch.zeros(len(encoded), longest, dtype=torch.long, device=device)
        for row, tokens in enumerate(encoded):
            self.ids[row, : len(tokens)] = torch.tensor(tokens)
        self.last = torch.tensor([len(e) - 1 for e in encoded], device=device)
        self.letters = [tokenizer(f" {x}", add_special_tokens=False).input_ids[0] for x in "ABCD"]
        self.right = torch.tensor(self.answers, device=device)

    @torch.no_grad()
    def __call__(
        self, donor: LlamaForCausalLM, base: LlambaForCausalLM | None, layers: Sequence[int]
    ) -> torch.Tensor:
        """Right or wrong [questions] of the hybrid; without a base, of the donor."""
        position = rotary(donor, self.ids.shape[1])
        h = donor.model.embed_tokens(self.ids)
        for i, theirs in enumerate(donor.model.layers):
            if base is None or i in layers:
                h = theirs(h, position_embeddings=position, attention_mask=None)
            else:
                h = base.backbone.layers[i](h)
        h = donor.model.norm(h[torch.arange(len(h), device=h.device), self.last])
        logits = donor.lm_head(h)[:, self.letters]
        right: torch.Tensor = logits.argmax(-1) == self.right
        return right

    def by_subject(self, right: torch.Tensor) -> dict[str, float]:
        """Accuracy of each subject."""
        table: dict[str, list[float]] = {}
        for name, value in zip(self.subject, right.float().tolist(), strict=True):
            table.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in table.items()}


def survey(exam: Examination, donor: LlamaForCausalLM, base: LlambaForCausalLM) -> dict[str, Any]:
    """Accuracy of base, donor, every single layer, and greedy addition up to four layers."""

    def score(layers: Sequence[int]) -> float:
        return float(exam(donor, base, layers).float().mean())

    single = [score([i]) for i in range(donor.config.num_hidden_layers)]
    chosen: list[int] = []
    path = []
    for _ in range(4):
        trials = {i: score([*chosen, i]) for i in range(len(single)) if i not in chosen}
        best = max(trials, key=lambda i: trials[i])
        chosen.append(best)
        path.append((best, round(trials[best], 3)))
    without = {i: score([j for j in chosen if j != i]) for i in chosen}
    return {
        "donor": round(float(exam(donor, None, ()).float().mean()), 3),
        "base": round(score([]), 3),
        "single": [round(s, 3) for s in single],
        "greedy": path,
        "lost without": {i: round(path[-1][1] - s, 3) for i, s in without.items()},
    }


def faults(found: dict[str, Any]) -> list[str]:
    """What keeps a pair from showing the effect: most of a lost skill sits in a few layers."""
    rules = {
        f"donor {found['donor']} under 0.95": found["donor"] < 0.95,
        f"base {found['base']} over 0.40": found["base"] > 0.40,
        f"one layer {max(found['single'])} over 0.75": max(found["single"]) > 0.75,
        f"four layers {found['greedy'][-1][1]} under 0.90": found["greedy"][-1][1] < 0.90,
        "fewer than three layers matter": sum(x > 0.05 for x in found["lost without"].values()) < 3,
    }
    return [text for text, broken in rules.items() if broken]


def round_weights(model: torch.nn.Module) -> None:
    """Round the weights to bfloat16, as they are stored; computing stays in float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())


def save(model: Any, folder: Path) -> None:
    """Write a rounded model: bfloat16 on disk (half the size), float32 when loaded."""
    model.to(torch.bfloat16).save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text("utf-8"))
    config["dtype"] = "float32"
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    model.to(torch.float32)


def main() -> None:
    """Train both, print the effect, write the folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "studies" / "demo")
    parser.add_argument("--tasks", type=Path, default=dq.TASKS_DIR)
    args = parser.parse_args()
    train_pair(DemoRecipe(), args.out, args.tasks)


def train_pair(recipe: DemoRecipe, out: Path, tasks: Path) -> None:
    """The whole run: text, tokenizer, donor, base, survey."""
    started = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True

    def say(text: str) -> None:
        print(f"[{time.time() - started:6.1f} s] {text}", flush=True)

    texts = make_texts(recipe.seed + 1, recipe.pool, multiprocessing.cpu_count())
    tokenizer = train_tokenizer([text for text, _ in texts[:60_000]])
    ids, where = encode(tokenizer, texts)
    say(f"{len(ids)} texts, {len(tokenizer)} tokens in the vocabulary")
    pool, spots = torch.tensor(ids, device=device), torch.tensor(where, device=device)
    exam = Examination(tokenizer, tasks, device, 10_000)
    donor = make_donor(recipe).to(device)

    def watch(step: int, loss: float) -> bool:
        table = exam.by_subject(exam(donor, None, ()))
        say(f"donor {step}: loss {loss:.4f} " + " ".join(f"{k} {v:.3f}" for k, v in table.items()))
        return min(table.values()) >= recipe.learned

    train_donor(donor, pool, spots, recipe, watch)
    round_weights(donor)
    save(donor, out / "donor")
    tokenizer.save_pretrained(out / "donor")
    # What transformers writes here depends on its version; every version reads this.
    settings = {
        "eos_token": END,
        "model_max_length": 2048,
        "pad_token": END,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    text = json.dumps(settings, indent=2) + "\n"
    (out / "donor" / "tokenizer_config.json").write_text(text, "utf-8")

    def watch_base(step: int, loss: float) -> bool:
        say(f"base {step}: loss {loss:.4f}")
        return False

    for steps in recipe.mixer_steps:
        base = make_base(donor, recipe)
        train_mixers(base, donor, pool, recipe, watch_base, steps, every=100)
        round_weights(base)
        found = survey(exam, donor, base)
        say(json.dumps({"mixer steps": steps, **found}))
        wrong = faults(found)
        if not wrong:
            save(base, out / "base")
            say(f"base of {steps} steps saved")
            return
        say(f"base of {steps} steps: " + "; ".join(wrong))
    sys.exit("no base showed the effect; try another seed")


if __name__ == "__main__":
    main()
