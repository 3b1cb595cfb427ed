"""Writing a trained student as a Hugging Face folder that loads without optlayers too."""

from __future__ import annotations

import shutil
from pathlib import Path

from optlayers.checkpoints.files import flush_to_disk
from optlayers.checkpoints.tokenizer import copy_tokenizer
from optlayers.checkpoints.writer import holds_object
from optlayers.errors import ExportError
from optlayers.models import llamba as llamba_module
from optlayers.models.llamba import LlambaForCausalLM

MODELING = ("ssd.py", "generation.py", "llamba.py")


def write_student(
    student: LlambaForCausalLM, donor: Path, card: str, work: Path, out: Path
) -> None:
    """Write a Llamba model with the tokenizer of its donor, a folder; `out` appears by rename.

    work: a folder beside it for what is unfinished. card: the text of its README.md. Raises
    `ExportError` where it cannot be written.
    """
    folder = work / "model"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        student.config.auto_map = {
            "AutoConfig": "llamba.LlambaConfig",
            "AutoModelForCausalLM": "llamba.LlambaForCausalLM",
        }
        student.save_pretrained(folder)
        copy_tokenizer(donor, folder)
        generation = donor / "generation_config.json"
        if holds_object(generation):
            shutil.copyfile(generation, folder / generation.name)
        for file in MODELING:
            shutil.copyfile(Path(llamba_module.__file__).parent / file, folder / file)
        (folder / "README.md").write_text(card, encoding="utf-8")
        flush_to_disk(*folder.iterdir(), folder)
        if out.exists():
            out.rmdir()
        folder.rename(out)
        flush_to_disk(out.absolute().parent)
    except OSError as error:
        raise ExportError(
            f"--out {out}: could not be written ({error}); fix that and run the same command "
            "again: the training is kept"
        ) from None
