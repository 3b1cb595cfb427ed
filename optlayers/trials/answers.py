"""Answers of one layer set to the first questions of a study, and how they are stored as text."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

# Right or wrong, bool [n]; or values in [0, 1], float [n], of metrics that are neither.
Answers = npt.NDArray[Any]

# Prefix of values that are not right or wrong; base64 has no colon.
_REAL = "u16:"
_STEPS = 65535


def as_stored(values: Answers) -> Answers:
    """Answers with the precision that storage keeps: values in 65,536 steps, bool unchanged."""
    if values.dtype == np.bool_:
        return values
    return np.asarray(np.rint(np.clip(values, 0.0, 1.0) * _STEPS) / _STEPS)


def encode_answers(answers: Answers) -> str:
    """Answers [n] as base64 text: bool as bits (8 questions per byte, padded), float in 2 bytes."""
    if answers.dtype == np.bool_:
        return base64.b64encode(np.packbits(answers).tobytes()).decode("ascii")
    steps = np.rint(np.clip(answers, 0.0, 1.0) * _STEPS).astype("<u2")
    return _REAL + base64.b64encode(steps.tobytes()).decode("ascii")


def decode_answers(text: str, questions: int) -> Answers:
    """The inverse of `encode_answers`: bool [questions], or float in [0, 1].

    Raises `ValueError` where the text holds fewer than `questions` answers.
    """
    if text.startswith(_REAL):
        steps = np.frombuffer(base64.b64decode(text[len(_REAL) :], validate=True), dtype="<u2")
        if steps.size < questions:
            raise ValueError(f"answers: {steps.size} values for {questions} questions")
        return np.asarray(steps[:questions] / _STEPS)
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if packed.size * 8 < questions:
        raise ValueError(f"answers: {packed.size * 8} bits for {questions} questions")
    return np.unpackbits(packed, count=questions).astype(np.bool_)
