"""Using a checkpoint as a stranger would: fresh processes in which optlayers cannot be imported.

One loads the folder and generates; one is lm_eval's own command line, on the study's tasks.
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

from optlayers.config.study import TaskSpec
from optlayers.errors import EvaluationError

MARK = "optlayers generated: "
BLOCK = "import sys; sys.modules['optlayers'] = None\n"

GENERATE = """
import json
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MARK = "optlayers generated: "
folder, device, dtype, prompt, count = json.loads(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(
    folder, trust_remote_code=True, dtype=getattr(torch, dtype)
).to(device).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(prompt, return_tensors="pt").to(device)
made = model.generate(
    input_ids=inputs.input_ids,
    attention_mask=inputs.attention_mask,
    max_new_tokens=count,
    min_new_tokens=count,
    do_sample=False,
    pad_token_id=tokenizer.pad_token_id or 0,
)
new = made[0, inputs.input_ids.shape[1]:]
assert len(new) == count, f"{len(new)} tokens were generated instead of {count}"
with torch.inference_mode():
    logits = model(made).logits
assert bool(logits.isfinite().all()), "the logits are not finite"
print("\\n" + MARK + json.dumps(tokenizer.decode(new)))
"""

LM_EVAL = """
from lm_eval.__main__ import cli_evaluate
sys.argv = ["lm_eval", *sys.argv[1:]]
cli_evaluate()
"""


@dataclass(frozen=True)
class Stranger:
    """A checkpoint folder as other programs see it; device and dtype in torch's words."""

    folder: Path
    device: str
    dtype: str

    def generate(self, prompt: str, tokens: int) -> str:
        """Text of that many new tokens; raises `EvaluationError` where it does not work."""
        question = json.dumps([str(self.folder), self.device, self.dtype, prompt, tokens])
        with tempfile.TemporaryDirectory(prefix="optlayers-verify-") as work:
            out = self._run("generation", GENERATE, [question], Path(work), loud=False)
        # Libraries may write to standard output too.
        lines = [line for line in out.splitlines() if line.startswith(MARK)]
        if not lines:
            raise EvaluationError("generation: the fresh process gave no text")
        return str(json.loads(lines[-1].removeprefix(MARK)))

    def evaluate(
        self,
        specs: Sequence[TaskSpec],
        task_path: str | None,
        limit: int | None,
        batch_size: int,
        loud: bool = False,
    ) -> dict[str, dict[int, float]]:
        """What each document of each leaf task counts, 0 to 1, as lm_eval's command line scores it.

        limit: the first so many documents of each task. loud: show what lm_eval says. Raises
        `EvaluationError` where lm_eval fails.
        """
        found: dict[str, dict[int, float]] = {}
        for spec in specs:
            # One run a task: their numbers of examples may differ.
            arguments = ["run", "--model", "hf", "--tasks", spec.name, "--log_samples"]
            model = {"pretrained": str(self.folder), "dtype": self.dtype, "trust_remote_code": True}
            arguments += ["--model_args", json.dumps(model), "--device", self.device]
            arguments += ["--batch_size", str(batch_size)]
            arguments += ["--include_path", task_path] if task_path else []
            arguments += ["--limit", str(limit)] if limit is not None else []
            if spec.num_fewshot is not None:
                arguments += ["--num_fewshot", str(spec.num_fewshot)]
            with tempfile.TemporaryDirectory(prefix="optlayers-verify-") as work:
                arguments += ["--output_path", f"{work}/out"]
                self._run(f"lm_eval on {spec.name}", LM_EVAL, arguments, Path(work), loud)
                samples = sorted(Path(work).rglob("samples_*.jsonl"))
                if not samples:
                    raise EvaluationError(f"lm_eval on {spec.name}: it wrote no samples")
                for path in samples:
                    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
                    task = path.name.removeprefix("samples_").rpartition("_")[0]
                    found[task] = _values(rows, spec, task)
        return found

    def _run(self, what: str, code: str, arguments: Sequence[str], work: Path, loud: bool) -> str:
        environment: Mapping[str, str] = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            # The code that travels with the checkpoint is taken from it, not from an earlier use.
            "HF_MODULES_CACHE": str(work / "modules"),
            "TOKENIZERS_PARALLELISM": "false",
        }
        done = subprocess.run(
            [sys.executable, "-c", BLOCK + code, *arguments],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if loud else subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = (done.stderr or "").strip().splitlines()
            why = lines[-1][:300] if lines else f"exit code {done.returncode}"
            raise EvaluationError(f"{what}: {why} (a fresh process without optlayers)")
        return done.stdout


def _values(rows: Sequence[Mapping[str, Any]], spec: TaskSpec, task: str) -> dict[int, float]:
    """Of each document; a row is one document after one filter, the task's first filter first."""
    chosen = spec.filter or (rows[0]["filter"] if rows else None)
    found: dict[int, float] = {}
    for row in rows:
        if row["filter"] != chosen:
            continue
        if spec.measure not in row:
            raise EvaluationError(f"lm_eval on {task}: its samples have no {spec.measure}")
        found[int(row["doc_id"])] = float(row[spec.measure])
    if not found:
        raise EvaluationError(f"lm_eval on {task}: its samples have no filter {chosen!r}")
    return found
