"""A tiny pair of random models and a study over it, for the tests of every part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib.servers import MariaDB, MissingServerError, Postgres, Server
from tests.helpers.commands import Commands

# Tests never reach for the network: a name that is not a folder fails at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Models this small lose more to waiting threads than they win, the more so beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that a script starts in the background is born with SIGINT ignored; tests send Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And under `nohup` with SIGHUP ignored, as every process that it starts would be.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent
DEMO_TASKS = ROOT / "studies" / "demo" / "tasks"

LAYERS, WIDTH, VOCAB = 6, 32, 1024
END = "<|end|>"

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
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = []
    for path in sorted(DEMO_TASKS.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            doc = json.loads(line)
            choices = "".join(f"\n{x}. {c}" for x, c in zip("ABCD", doc["choices"], strict=False))
            texts.append(f"{doc.get('passage', '')}\n{doc['question']}{choices}\nAnswer: A")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=END, model_max_length=512
    )


def loud(model: Any, seed: int, std: float = 0.2) -> Any:
    """Give every matrix of a model weights large enough that each layer matters; returns it."""
    import torch

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
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        **more,
    }
    return loud(LlamaForCausalLM(LlamaConfig(**settings)), seed)


def tiny_llamba(seed: int = 2, tied: bool = False, **ssm: Any) -> Any:
    """A random Llamba of the same shape; `ssm` changes its `ssm_cfg`."""
    from optlayers.models import LlambaConfig, LlambaForCausalLM

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


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base/` (Llamba) and `donor/` (Llama, with the tokenizer); equal ends."""
    folder: Path = tmp_path_factory.mktemp("tiny_pair")
    donor, base = tiny_llama(), tiny_llamba()
    share_ends(base, donor)
    donor.save_pretrained(folder / "donor")
    base.save_pretrained(folder / "base")
    train_tiny_tokenizer().save_pretrained(folder / "donor")
    return folder


@pytest.fixture(scope="session")
def tiny_study(tiny_pair: Path) -> Path:
    """A study file over the tiny pair and the demo's tasks; takes seconds to search."""
    path = tiny_pair / "tiny.yaml"
    path.write_text(
        STUDY.format(file=path.name, pair=tiny_pair, tasks=DEMO_TASKS), encoding="utf-8"
    )
    return path


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs command lines without loading torch and its like for each (`commands.Commands`)."""
    made = Commands(tmp_path_factory.mktemp("commands"))
    yield made
    made.close()


def _served(kind: type[Server]) -> Iterator[Server]:
    try:
        server = kind()
    except MissingServerError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running PostgreSQL; skipped, with what to install, where it is missing (fails in CI)."""
    yield from _served(Postgres)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """A running MariaDB; skipped, with what to install, where it is missing (fails in CI)."""
    yield from _served(MariaDB)


@pytest.fixture
def postgresql_url(postgres: Server) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def mysql_url(mariadb: Server) -> Iterator[str]:
    """The URL of an empty MariaDB database."""
    with mariadb.database() as url:
        yield url


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A replayed search that is done, with its report (`finished.Finished`)."""
    from tests.helpers.finished import make_in

    return make_in(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def chrome() -> Iterator[Any]:
    """Chromium, driven by Playwright; skipped where it is missing (fails in CI)."""
    from tests.helpers.browser import launched

    yield from launched()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few hundred kilobytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here; run the tests as root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
