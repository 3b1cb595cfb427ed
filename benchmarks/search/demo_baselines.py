"""Runs other searches on the demo's recorded landscape, for `optlayers report --baselines`.

    python -m benchmarks.search.demo_baselines --out benchmarks/search

Of each search, the median best score over seeds against cost, in full evaluations.
"""

from __future__ import annotations

import contextlib
import json
import zlib

import numpy as np
import optuna

from benchmarks.lib import program
from benchmarks.lib.competitors import SEARCHES, EndedError, Oracle
from benchmarks.lib.landscapes import recorded
from benchmarks.lib.program import LANDSCAPE

SHOWN = ("greedy addition", "beam of 3", "predecessor's GA", "random")
GRID = [*range(1, 40), *range(40, 121, 2)]


def main() -> None:
    """Run and save."""
    parser = program.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=9)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = recorded(LANDSCAPE)
    found = {}
    for name in SHOWN:
        runs = []
        for seed in range(args.seeds):
            oracle = Oracle(known, 1.1, GRID[-1])
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            with contextlib.suppress(EndedError):
                SEARCHES[name](oracle, rng)
            runs.append(
                [max((b for c, _, b in oracle.history if c <= g), default=0.0) for g in GRID]
            )
        median = np.median(np.array(runs), axis=0)
        steps = [i for i in range(len(GRID)) if i == 0 or median[i] != median[i - 1]]
        steps = sorted({*steps, len(GRID) - 1})
        kept = [i for i in steps if median[i] > 0]
        found[name] = {
            "cost": [GRID[i] for i in kept],
            "score": [round(float(median[i]), 5) for i in kept],
        }
    text = json.dumps({"study": "demo", "searches": found}, indent=1)
    program.save(args.out, "demo-baselines.json", text)


if __name__ == "__main__":
    main()
