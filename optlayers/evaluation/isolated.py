"""Use a checkpoint in fresh processes that cannot import optlayers, as its users will.

One process loads the folder and generates text; others run lm_eval's command line on it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optlayers.config.fields import TaskSpec
from optlayers.errors import EvaluationError

BLOCK = "import sys; sys.modules['optlayers'] = None\n"

MARK = "optlayers generated: "
GENERATE = """
import json
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

mark, folder, device, dtype, prompt, count = json.loads(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(
    folder, trust_remote_code=True, dtype=getattr(torch, dtype)
).to(device).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(prompt, return_tensors="pt").to(device)
output = model.generate(
    input_ids=inputs.input_ids,
    attention_mask=inputs.attention_mask,
    max_new_tokens=count,
    min_new_tokens=count,
    do_sample=False,
    pad_token_id=tokenizer.pad_token_id or 0,
)
new = output[0, inputs.input_ids.shape[1]:]
assert len(new) == count, f"{len(new)} tokens were generated instead of {count}"
with torch.inference_mode():
    logits = model(output).logits
assert bool(logits.isfinite().all()), "the logits are not finite"
print("\\n" + mark + json.dumps(tokenizer.decode(new)))
"""

LM_EVAL = """
from lm_eval.__main__ import cli_evaluate
sys.argv = ["lm_eval", *sys.argv[1:]]
cli_evaluate()
"""


@dataclass(frozen=True)
class IsolatedCheckpoint:
    """A checkpoint folder, used without optlayers; device and dtype by torch's names."""

    folder: Path
    device: str
    dtype: str

    def generate(self, prompt: str, tokens: int) -> str:
        """The text of that many new tokens; raises `EvaluationError` where it fails."""
        request = json.dumps([MARK, str(self.folder), self.device, self.dtype, prompt, tokens])
        with tempfile.TemporaryDirectory(prefix="optlayers-verify-") as work:
            out = _run("generation", GENERATE, [request], Path(work), verbose=False)
        # Libraries may write to standard output too.
        lines = [line for line in out.split("\n") if line.startswith(MARK)]
        if not lines:
            raise EvaluationError("generation: the fresh process gave no text")
        return str(json.loads(lines[-1].removeprefix(MARK)))

    def evaluate(
        self,
        specs: Sequence[TaskSpec],
        task_path: str | None,
        limit: int | None,
        batch_size: int,
        verbose: bool = False,
    ) -> dict[str, dict[int, float]]:
        """The value of each document of each leaf task, 0 to 1, by lm_eval's command line.

        limit: the first documents of each task. verbose: show lm_eval's standard error. Raises
        `EvaluationError` where lm_eval fails.
        """
        found: dict[str, dict[int, float]] = {}
        if '"longrope"' in (self.folder / "config.json").read_text("utf-8"):
            batch_size = 1  # the longest sequence of a batch sets the frequencies of all
        model = {"pretrained": str(self.folder), "dtype": self.dtype, "trust_remote_code": True}
        for spec in specs:
            # One run for each task: their numbers of examples may differ.
            arguments = ["run", "--model", "hf", "--tasks", spec.name, "--log_samples"]
            arguments += ["--model_args", json.dumps(model), "--device", self.device]
            arguments += ["--batch_size", str(batch_size)]
            arguments += ["--include_path", task_path] if task_path else []
            arguments += ["--limit", str(limit)] if limit is not None else []
            if spec.num_fewshot is not None:
                arguments += ["--num_fewshot", str(spec.num_fewshot)]
            with tempfile.TemporaryDirectory(prefix="optlayers-verify-") as work:
                arguments += ["--output_path", f"{work}/out"]
                _run(f"lm_eval on {spec.name}", LM_EVAL, arguments, Path(work), verbose)
                samples = sorted(Path(work).rglob("samples_*.jsonl"))
                if not samples:
                    raise EvaluationError(f"lm_eval on {spec.name}: it wrote no samples")
                for path in samples:
                    with path.open(encoding="utf-8") as file:
                        rows = [json.loads(line) for line in file]
                    task = path.name.removeprefix("samples_").rpartition("_")[0]
                    found[task] = _values(rows, spec, task)
        return found


def _run(what: str, code: str, arguments: Sequence[str], work: Path, verbose: bool) -> str:
    """The standard output of a fresh process; raises `EvaluationError` where it fails."""
    environment = {
        **os.environ,
        # Modules that the tasks import are found where this process finds them.
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        # The checkpoint's own code is read from it, not from a cached copy.
        "HF_MODULES_CACHE": str(work / "modules"),
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", BLOCK + code, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if verbose else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr or "").strip().splitlines()
        why = lines[-1][:300] if lines else f"exit code {done.returncode}"
        raise EvaluationError(f"{what}: {why} (a fresh process without optlayers)")
    return done.stdout


def _values(rows: Sequence[Mapping[str, Any]], spec: TaskSpec, task: str) -> dict[int, float]:
    """The value of each document; a row is one document after one filter, the first one first."""
    chosen = spec.filter or (rows[0]["filter"] if rows else None)
    rows = [row for row in rows if row["filter"] == chosen]
    if not rows:
        raise EvaluationError(f"lm_eval on {task}: its samples have no filter {chosen!r}")
    # A task's own code may leave a document out.
    found = {int(row["doc_id"]): float(row[spec.measure]) for row in rows if spec.measure in row}
    if not found:
        raise EvaluationError(f"lm_eval on {task}: its samples have no {spec.measure}")
    return found
