"""Run one soak, and write down what it came to."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks import records
from demo.console import DemoError
from demo.scenario import DEMO_NAMESPACE
from tests import ending, slots
from tests.devcluster.api import ApiError
from tests.soak import layouts, memory, report, verdict
from tests.soak.actor import Actor, Say
from tests.soak.faults import Faults
from tests.soak.observer import Observer
from tests.soak.report import Outcome
from tests.soak.script import Script, draw
from tests.soak.site import Site, site
from tests.soak.state import Object, State, name_of
from tests.soak.stream import Stream

SETTLE_SECONDS = 720.0
"""The longest that a cluster may take to come to rest: the kubelet's and the Jobs' back-off of five
minutes, twice, and a start."""
LOOK_SECONDS = 3.0
LOOKS_AT_REST = 3
"""Looks in a row without a finding: a state that is passed through is not one of rest."""
LOCK = threading.Lock()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns 1 when something was found."""
    options = _parser().parse_args(arguments)
    ending.unwind_on_sigterm()
    script = draw(options.seed, options.models, options.minutes * 60)
    with site(slots.END_TO_END, options.keep) as made:
        outcome = _soak(made, script)
    told = report.as_json(outcome)
    page = report.as_markdown(told)
    if options.output is not None:
        records.write(told, options.output, "soak").with_suffix(".md").write_text(page)
    print(page)
    return min(len(outcome.findings), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15, help="default: %(default)s")
    parser.add_argument("--models", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=20261123, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="folder for soak-DATE.json and .md")
    parser.add_argument("--keep", action="store_true", help="leave the cluster, to look at it")
    return parser


def _soak(made: Site, script: Script) -> Outcome:
    began = time.monotonic()

    def say(line: str) -> None:
        with LOCK:
            print(f"[{time.monotonic() - began:6.1f} s] {line}", file=sys.stderr, flush=True)

    faults = Faults(made.cluster, made.kubectl)
    actor, observer = Actor(made.kubectl, made.cluster.api, faults, say), Observer(faults, say)
    with observer.looking():
        actor.play(script)
        say("all actions are done; waiting for rest")
        stopped = time.monotonic()
        state, found = _settle(made, script, say)
        settled = time.monotonic() - stopped
        say("a stream of changes; memory is judged by it")
        found += _stream(made, state, observer, say)
    models = state.of("ShardedModel")
    events = made.cluster.api.get(f"/api/v1/namespaces/{DEMO_NAMESPACE}/events")["items"]
    with made.store() as store:
        folders = {name: layouts.read_folders(store, name) for name in ("passing", "lasting")}
    for prefix, own in folders.items():
        found += layouts.missing(models, prefix, own)
    found += layouts.unneeded(models, observer.history, events, folders["passing"])
    lives = list(observer.lives.values())
    return Outcome(
        script=script,
        tally=actor.tally,
        models=models,
        settle_seconds=settled,
        findings=[*actor.tally.failed, *found, *memory.growing(lives)],
        lives=lives,
        objects={kind: len(state.of(kind)) for kind in state.objects},
        layouts={prefix: len(own) for prefix, own in folders.items()},
        events=_counted(events),
    )


def _settle(made: Site, script: Script, say: Say) -> tuple[State, list[str]]:
    """Wait until nothing is found any more, or what is found stays."""
    deadline = time.monotonic() + SETTLE_SECONDS
    wanted, at_rest, found = script.wanted, 0, ["the API server did not answer"]
    state = State({})
    while at_rest < LOOKS_AT_REST and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        with suppress(ApiError):
            state = State.read(made.cluster.api)
            before, found = found, verdict.findings(wanted, state)
            at_rest = 0 if found else at_rest + 1
            if found and found != before:
                say(f"{len(found)} findings left, such as: {found[0]}")
    return state, found


def _stream(made: Site, state: State, observer: Observer, say: Say) -> list[str]:
    """Change the models that came to rest; gives what went wrong."""
    api = made.cluster.api
    at_rest = [name_of(model) for model in state.of("ShardedModel")]
    try:
        say(f"{Stream(api, at_rest).run(observer.handled)} changes are answered")
    except ApiError as error:
        return [f"stream of changes: {error}"]
    return []


def _counted(events: Sequence[Object]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for event in events:
        if event["involvedObject"].get("kind") == "ShardedModel":
            counted[event["reason"]] += event.get("count") or 1
    return counted


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DemoError as error:
        sys.exit(f"soak: {error}")
