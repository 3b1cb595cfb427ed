"""A study file as text: YAML without surprises, and what is wrong with it in the user's words."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from optlayers.errors import StudyFileError

# Names of alternatives, which pydantic puts into the place of a fault.
TAGS = ("index", "named")
_KINDS = {
    "missing": "is missing; add it",
    "extra_forbidden": "is not a field of a study file; remove it or mend its name",
    "invalid_key": "is not a field of a study file; remove it or mend its name",
}
_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text, in quotes where it looks like a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "fields in braces",
    "dict_type": "fields in braces",
}
_EXAMPLES = {
    "base": "{model: NAME}",
    "donor": "{model: NAME}",
    "layers": "{min: 1, max: 4}",
    "donors": "[{name: a, model: NAME}, {name: b, model: NAME}]",
    "donors[]": "{name: a, model: NAME}",
    "donor_map": "[0, 2, 4]",
    "donors[].donor_map": "[0, 2, 4]",
    "tasks": "[{name: mmlu}]",
    "tasks[]": "{name: mmlu}",
    "questions": "{fast: 20, full: null}",
    "explore": "{population: 40, generations: 20}",
    "validate": "{top: 20}",
    "refine": "{top: 3, verify: 5}",
    "prior": "{layer_sets: [[3], [3, 7]]}",
    "prior.single_layer_scores": "[0.31, 0.26]",
    "prior.layer_sets": "[[3], [3, 7]]",
    "prior.layer_sets[]": "[3, 7]",
}
_RULES = {
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "one of {expected}",
}


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which takes no field twice: the last would win without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is given twice; keep one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_fields(text: str, source: str) -> dict[Any, Any]:
    """The fields of a study file's text; raises `StudyFileError` where it is no such thing."""
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise StudyFileError(source, [f"{where}not valid YAML: {problem}"]) from None
    except RecursionError:
        raise StudyFileError(source, ["not valid YAML: brackets nested too deep"]) from None
    except (ValueError, OverflowError) as error:
        # What looks like a date or a number and is none.
        why = str(error).splitlines()[0]
        raise StudyFileError(source, [f"not valid YAML: {why}; put text in quotes"]) from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise StudyFileError(source, [f"expected fields such as 'name: demo'; found {found}"])
    return data


def fault(error: Any) -> str:
    """One pydantic error as one line: field, rule, what was found."""
    field = ""
    for part in error["loc"]:
        if part in TAGS and field.endswith("]"):
            continue
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    kind, found = error["type"], error["input"]
    if kind in _KINDS:
        return f"{field}: {_KINDS[kind]}"
    message = re.sub(r"^Value error, ", "", error["msg"])
    if kind == "value_error":
        # The rule already names what was found (and the fields, where it spans several).
        return f"{field}: {message}" if field else message
    if kind in _TYPES:
        example = _EXAMPLES.get(re.sub(r"\[\d+\]", "[]", field))
        such = f", such as {example}" if example else ""
        return f"{field}: expected {_TYPES[kind]}{such}; found {_shown(found)}"
    rule = message[0].lower() + message[1:]
    if kind in _RULES:
        limits = error.get("ctx", {})
        limits = {k: f"{v:g}" if isinstance(v, float) else v for k, v in limits.items()}
        rule = "must be " + _RULES[kind].format(**limits)
    rule = re.sub(r"^(input|value|string|list) should ", "must ", rule)
    return f"{field}: {rule}; found {_shown(found)}, so change it"


def _shown(found: Any) -> str:
    """A value as the file has it, as far as a line has room."""
    if found is None or isinstance(found, bool):
        return json.dumps(found)
    shown = repr(found)
    return shown if len(shown) <= 60 else shown[:57] + "..."
