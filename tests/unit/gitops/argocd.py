"""Argo CD's health check, run by a real Lua as Argo CD runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lupa.lua51 import LuaRuntime

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs/gitops/argocd/resource_customizations" / "shardedmodel.dev" / "ShardedModel"
SCRIPT = (FOLDER / "health.lua").read_text()


class Health(NamedTuple):
    """What the script says."""

    status: str
    message: str


def health(body: Mapping[str, Any], script: str = SCRIPT) -> Health:
    """Ask the script about an object; it sees what Argo CD gives it, ``obj``, and no library."""
    lua = LuaRuntime(register_eval=False, register_builtins=False)
    lua.execute("io, os, require, dofile, loadfile, package, debug = nil")
    lua.globals().obj = _table(lua, body)
    found = lua.execute(script)
    return Health(found["status"], found["message"])


def _table(lua: Any, value: Any) -> Any:
    """Turn JSON into Lua; null becomes nil, as in Argo CD."""
    if isinstance(value, Mapping):
        return lua.table_from({k: _table(lua, v) for k, v in value.items() if v is not None})
    if isinstance(value, list):
        return lua.table_from([_table(lua, item) for item in value])
    return value
