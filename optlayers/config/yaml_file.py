"""The text of a study file as fields, and faults of fields as lines in the words of YAML."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from optlayers.errors import StudyFileError

# Tags of the alternatives of a field, which pydantic puts into the place of a fault.
_TAGS = ("index", "named")
_UNKNOWN = "is not a field of a study file; remove it or fix its name"
_KINDS = {
    "missing": "is missing; add it",
    "extra_forbidden": _UNKNOWN,
    "invalid_key": _UNKNOWN,
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


MOST_VALUES = 500_000  # with what aliases stand for; more than any study has


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that refuses repeated fields and aliases that expand without bound."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"more than {MOST_VALUES:,} values; write out what the aliases mean"
            )
        return node

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


def _values(node: Any, known: dict[int, int]) -> int:
    """The number of values in a node, with all that its aliases stand for."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 1  # an alias of its own parent counts once
        mapping = isinstance(node, yaml.MappingNode)
        inner = [part for pair in node.value for part in pair] if mapping else node.value
        known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(node)]


def read_fields(text: str, source: str) -> dict[Any, Any]:
    """The fields of a study file; raises `StudyFileError` where the text is not YAML fields."""
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        if isinstance(error, yaml.reader.ReaderError):
            problem = f"{error.reason}; save it as UTF-8 text"
        raise StudyFileError(source, [f"{where}not valid YAML: {problem}"]) from None
    except RecursionError:
        raise StudyFileError(source, ["not valid YAML: nested too deeply"]) from None
    except (ValueError, OverflowError) as error:
        # Text that looks like a date or a number and is none.
        why = str(error).splitlines()[0].partition("; use sys")[0]
        raise StudyFileError(source, [f"not valid YAML: {why}; put text in quotes"]) from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise StudyFileError(source, [f"expected fields such as 'name: demo'; found {found}"])
    return data


def fault(error: Any) -> str:
    """One pydantic error as one line: the field, the rule, what was found."""
    field = ""
    for part in error["loc"]:
        if part in _TAGS and field.endswith("]"):
            continue
        name = str(part) or "''"
        field += f"[{part}]" if isinstance(part, int) else f".{name}" if field else name
    kind, found = error["type"], error["input"]
    if kind in _KINDS:
        return f"{field}: {_KINDS[kind]}"
    message = re.sub(r"^Value error, ", "", error["msg"])
    if kind == "value_error":
        # Rules of our own say what was found, and name the fields where there are several.
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
    """A value as in the file, cut to 60 characters."""
    if found is None or isinstance(found, bool):
        return json.dumps(found)
    try:
        shown = repr(found)
    except ValueError:
        return "a number of thousands of digits"  # more than Python converts to text
    return shown if len(shown) <= 60 else shown[:57] + "..."
