"""Validation errors in a user's words: the full key, what was received, what was expected, what was meant."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, values: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One line for the first of a configuration's errors.

    Args:
        error: what pydantic raised.
        values: the values it raised it for.
        root: the class of the whole configuration, whose keys are suggested.

    Returns:
        `training.epohcs: unknown key; did you mean training.epochs?`, for example.
    """
    keyed = [(_full_key(problem, values), problem) for problem in error.errors(include_url=False)]
    # A value that fits no member of a plain union is reported once for each member: what is wrong inside of it says
    # more than that it is not the other member.
    keyed = [pair for pair in keyed if not any(other.startswith(f"{pair[0]}.") for other, _ in keyed if pair[0])]
    # An unknown key is said first: it is often the cause of a missing one.
    keyed.sort(key=lambda pair: pair[1]["type"] != "extra_forbidden")
    problems = [problem for _, problem in keyed]
    key, problem = keyed[0]
    same = [other for other_key, other in keyed if other_key == key]
    more = f" (and {len(problems) - len(same)} more)" if len(problems) > len(same) else ""
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key{_suggestion(key, values, root)}{more}"
        case "missing":
            return f"{key}: is required and missing{more}"
        case "union_tag_not_found":
            return f"{key}.{context['discriminator'].strip(chr(39))}: is required and missing{more}"
        case "union_tag_invalid":
            name = context["discriminator"].strip("'")
            return f"{key}.{name}: expected one of {context['expected_tags']}, received '{context['tag']}'{more}"
        case "value_error":
            return f"{key}: {context['error']}{more}" if key else f"{context['error']}{more}"
        case _:
            expected = " or ".join(dict.fromkeys(_expected(other) for other in same))
            return f"{key}: expected {expected}, received {shortened(problem['input'])}{more}"


def _expected(problem: Mapping[str, Any]) -> str:
    if problem["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return "keys and their values"
    if problem["type"] == "path_type":
        return "a path"
    return str(problem["msg"]).removeprefix("Input should be ")


def _full_key(problem: Mapping[str, Any], values: Any) -> str:
    # Pydantic puts the tag of a union's chosen member into the location, and the branch of a plain union: what is not
    # a key of the file is left out, except the last part of a location that names a missing key.
    parts: list[str] = []
    for index, part in enumerate(problem["loc"]):
        if isinstance(values, Mapping):
            if part in values:
                values = values[part]
            elif problem["type"] != "missing" or index < len(problem["loc"]) - 1:
                continue
            parts.append(str(part))
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
            parts.append(str(part))
    return ".".join(parts)


def _suggestion(key: str, values: Mapping[str, Any], root: type[BaseModel]) -> str:
    *sections, name = key.split(".")
    known = _known_keys(sections, values, root)
    similar = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if similar:
        return f"; did you mean {'.'.join([*sections, similar[0]])}?"
    elsewhere = [path for path in _all_keys([], values, root) if path[-1] == name]
    if elsewhere:
        nearest = min(elsewhere, key=len)
        return f"; did you mean {'.'.join(nearest)}?"
    return f"; known keys here: {', '.join(known)}" if known else ""


def _known_keys(sections: list[str], values: Any, root: type[BaseModel]) -> list[str]:
    section: Any = root
    for name in sections:
        field = section.model_fields.get(name)
        if field is None:
            return []
        values = values.get(name) or {} if isinstance(values, Mapping) else {}
        section = _section_class(field, values)
        if section is None:
            return []
    return list(section.model_fields)


def _all_keys(sections: list[str], values: Any, root: type[BaseModel]) -> Iterator[list[str]]:
    for name in _known_keys(sections, values, root):
        yield [*sections, name]
        yield from _all_keys([*sections, name], values, root)


def _section_class(field: Any, values: Any) -> type[BaseModel] | None:
    # A section's class; for a union the member whose discriminator has the value that the file gives.
    classes = [c for c in [field.annotation, *get_args(field.annotation)] if isinstance(c, type)]
    members: list[type[BaseModel]] = [c for c in classes if issubclass(c, BaseModel)]
    tag = values.get(field.discriminator) if field.discriminator and isinstance(values, Mapping) else None
    for member in members:
        if tag is None or tag in get_args(member.model_fields[field.discriminator].annotation):
            return member
    return None


def shortened(value: Any) -> str:
    """A value as Python writes it, cut to the length of a line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
