"""``--rules``: sharding rules as JSON on the command line, or in a JSON or YAML file."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from shardedmodel_runtime.errors import ConfigurationError, excerpt, meant
from shardedmodel_runtime.sharding.rules import Rule

RULES_BYTES_LIMIT = 1024 * 1024
"""Thousands of rules: more than a model has patterns of names."""


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Read the value of ``--rules``.

    Args:
        text: a JSON list where it begins with ``[``, else the name of a file.

    Raises:
        ConfigurationError: no such file, neither JSON nor YAML, or a field is unknown, missing or
            of the wrong type; names the rule and the field.
    """
    if text.lstrip().startswith("["):
        value = _parse_json(text, "--rules")
    else:
        value = _read_file(Path(text))
    try:
        _require_names(value)
        document = json.dumps(value, default=_refuse)
        documents = _rules_adapter().validate_json(document, strict=True)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigurationError(f"--rules: {_problem(error)}") from error
    return tuple(Rule(**dict(document)) for document in documents)


def _rules_adapter() -> TypeAdapter[list[Any]]:
    """Give what holds a list against the fields of ``Rule``; others are refused."""
    hints = get_type_hints(Rule)
    known: dict[str, Any] = {
        field.name: (hints[field.name], ... if field.default is MISSING else field.default)
        for field in fields(Rule)
    }
    document: Any = create_model("Rule", __config__=ConfigDict(extra="forbid"), **known)
    return TypeAdapter(list[document])


def _read_file(path: Path) -> Any:
    where = f"--rules: {excerpt(str(path))}"
    try:
        with path.open("rb") as file:  # a pipe tells no size
            data = file.read(RULES_BYTES_LIMIT + 1)
        if len(data) > RULES_BYTES_LIMIT:
            raise ConfigurationError(f"{where} has more than {RULES_BYTES_LIMIT} bytes")
        text = data.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(
            f"{where}: {reason}; give a JSON list, or the name of a JSON or YAML file"
        ) from error
    return _parse_json(text, where) if path.suffix == ".json" else _parse_yaml(text, where)


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: not JSON: {excerpt(str(error))}") from error


def _parse_yaml(text: str, where: str) -> Any:
    import yaml  # the pre-shard Job gives its rules as JSON, and never needs it

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"{where}: not YAML: {excerpt(str(error))}") from error


def _require_names(value: object) -> None:
    """See that fields have names: YAML takes dates and numbers for keys, which JSON lacks.

    Raises:
        TypeError: one has not.
    """
    for rule in value if isinstance(value, list) else ():
        for name in rule if isinstance(rule, dict) else ():
            if not isinstance(name, str):
                _refuse(name)


def _refuse(value: object) -> None:
    kind = type(value).__name__
    raise TypeError(f"{excerpt(str(value), 80)}: is of type {kind} in YAML; put it in quotes")


def _meant(name: str) -> str:
    """Say which field a name that is none may stand for."""
    names = [field.name for field in fields(Rule)]
    return meant(name, names, otherwise=f"there are {', '.join(names)}")


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError) or not isinstance(error, ValidationError | TypeError):
        return "an alias leads back to what it is part of; write the rules out"
    if isinstance(error, TypeError):
        return excerpt(str(error))
    problems = error.errors(include_url=False)
    # A name that was mistyped is missing under its right one as well.
    unknown = (problem for problem in problems if problem["type"] == "extra_forbidden")
    first = next(unknown, problems[0])
    if not first["loc"]:
        return "give a list of rules, each with match and strategy"
    number, *field = first["loc"]
    path = ".".join([f"[{number}]", *(str(part) for part in field)])
    if first["type"] == "extra_forbidden":
        return f"{excerpt(path)}: is not a field of a rule; {_meant(str(field[-1]))}"
    return f"{excerpt(path)}: {excerpt(repr(first['input']), 80)}: {excerpt(first['msg'])}"
