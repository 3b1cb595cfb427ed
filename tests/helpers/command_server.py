"""Runs command lines of optlayers in forks of one process that has loaded everything.

Loading torch and its like takes most of the time of a short command. Reads a JSON object a line
(`arguments`, `folder`, `environment`, `output`, and `errors` where these go elsewhere) on standard
input, answers with the exit code. `module` names another program of the checkout, such as a
benchmark; `code` is Python to run instead.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import traceback


def child(task: dict[str, object]) -> int:
    """What the fork does."""
    os.chdir(str(task["folder"]))
    os.environ.update(task["environment"])  # type: ignore[call-overload]
    output = _opened(task["output"])
    os.dup2(output, 1)
    os.dup2(_opened(task["errors"]) if "errors" in task else output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if any(name.startswith("HF_") for name in task["environment"]):  # type: ignore[attr-defined]
        _read_hub_settings()
    try:
        if "code" in task:
            exec(compile(str(task["code"]), "<document>", "exec"), {"__name__": "__main__"})
            return 0
        sys.argv = ["optlayers", *task["arguments"]]  # type: ignore[misc]
        if "module" in task:
            runpy.run_module(str(task["module"]), run_name="__main__", alter_sys=True)
            return 0
        from optlayers.cli import main

        main()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(bool(done.code))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _opened(path: object) -> int:
    return os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def _read_hub_settings() -> None:
    """Let the hub's client read its environment again, as it does when it is first imported."""
    import huggingface_hub

    importlib.reload(huggingface_hub.constants)
    huggingface_hub.hf_api.api.endpoint = huggingface_hub.constants.ENDPOINT


def serve() -> None:
    """Answer until standard input ends."""
    import lm_eval.tasks  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import optlayers.workers.worker  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = child(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
