"""What is wrong with a cluster that has settled, by the specs alone; the planner is not asked.

Every finding is a sentence that names the object. No finding means: every model is as it was asked
to be, and nothing is there that belongs to none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.soak.choices import Choice, manifest
from tests.soak.state import Object, State, condition, is_leaving, label_of, name_of, owner_uid

WELL = frozenset({"Ready", "ScaledToZero"})
"""Reasons of the condition Ready when it is True."""
REVISION_HISTORY = 3
"""Finished Jobs of former requests that a model keeps unless its spec says otherwise."""


def findings(wanted: Mapping[str, Choice], state: State) -> list[str]:
    """Everything that is not as it was asked for.

    Args:
        wanted: what each model was asked to be; those that are not named should not exist.
        state: what is there.
    """
    found = [*_unowned(state), *_leaving(state)]
    models = {name_of(model): model for model in state.of("ShardedModel")}
    found += [f"ShardedModel {name} was deleted and is there" for name in models.keys() - wanted]
    for name, choice in wanted.items():
        if name not in models:
            found.append(f"ShardedModel {name} was applied and is not there")
            continue
        model = models[name]
        problems = [*_status(model, choice), *_children(model, choice, state)]
        found += [f"{name}: {problem}" for problem in problems]
    return found


def _unowned(state: State) -> Iterator[str]:
    """What no model that exists owns, be it through a Job or a StatefulSet."""
    owners = {o["metadata"]["uid"] for items in state.objects.values() for o in items}
    for kind in state.objects.keys() - {"ShardedModel"}:
        for item in state.of(kind):
            if owner_uid(item) not in owners:
                yield f"{kind} {name_of(item)} is owned by nothing that exists"


def _leaving(state: State) -> Iterator[str]:
    for kind, items in state.objects.items():
        for item in items:
            if is_leaving(item):
                yield f"{kind} {name_of(item)} was asked to go and is there"


def _status(model: Object, choice: Choice) -> Iterator[str]:
    spec = manifest(name_of(model), choice)["spec"]
    if differing := list(_differing(spec, model["spec"], "spec")):
        yield f"its spec is not what was applied: {', '.join(differing)}"
    if bool(model["metadata"].get("finalizers")) != choice.passing:
        yield f"finalizers are {model['metadata'].get('finalizers')}"
    status = model.get("status") or {}
    generation = model["metadata"]["generation"]
    if status.get("observedGeneration") != generation:
        yield f"status speaks of generation {status.get('observedGeneration')}, not {generation}"
    ready = condition(model, "Ready")
    reason = ready.get("reason", "")
    if reason not in choice.ready_reasons:
        yield f"Ready says {reason}, not {' or '.join(sorted(choice.ready_reasons))}: " + str(
            ready.get("message", "")
        )
    if (ready.get("status") == "True") != (reason in WELL):
        yield f"Ready is {ready.get('status')} with reason {reason}"
    stalls = reason not in WELL | {"Suspended"}
    if (condition(model, "Stalled").get("status") == "True") != stalls:
        yield f"Stalled is {condition(model, 'Stalled').get('status', 'absent')} at {reason}"
    if condition(model, "Reconciling"):
        yield "Reconciling is there"


def _differing(applied: Any, there: Any, path: str) -> Iterator[str]:
    """Fields that were applied and are not so there; the server adds defaults of its own."""
    if isinstance(applied, dict) and isinstance(there, dict):
        for key, value in applied.items():
            yield from _differing(value, there.get(key), f"{path}.{key}")
    elif applied != there:
        yield path


def _children(model: Object, choice: Choice, state: State) -> Iterator[str]:
    reason = condition(model, "Ready").get("reason", "")
    if reason == "Ready":
        yield from _serving(model, choice, state)
    elif reason in ("Suspended", "ScaledToZero"):
        yield from _at_rest(model, choice, state)
    else:
        yield from _stalled(model, choice, state)
    yield from _pods(model, choice, state)
    yield from _services(model, choice, state)
    yield from _jobs(model, state)


def _serving(model: Object, choice: Choice, state: State) -> Iterator[str]:
    """Exactly the groups of the revision that is asked for, all of them ready."""
    status = model["status"]
    revision = status.get("currentRevision", "")
    if not revision or revision != status.get("updateRevision"):
        yield f"serves {revision!r} and is asked for {status.get('updateRevision')!r}"
    groups = {_place(item): item for item in state.owned("StatefulSet", model)}
    expected = {(revision, str(index)) for index in range(choice.replicas)}
    if groups.keys() != expected:
        yield f"has the groups {sorted(groups)}, not {sorted(expected)}"
    for item in groups.values():
        ready = (item.get("status") or {}).get("readyReplicas", 0)
        if (item["spec"]["replicas"], ready) != (choice.tensor, choice.tensor):
            yield f"{name_of(item)} has {ready} ready of {item['spec']['replicas']} pods"
    if status.get("readyReplicas") != choice.replicas:
        yield f"status.readyReplicas is {status.get('readyReplicas')}"


def _at_rest(model: Object, choice: Choice, state: State) -> Iterator[str]:
    """No pods: suspended, groups of the revision that is asked for wait without any."""
    revision = model["status"].get("updateRevision", "")
    for item in state.owned("StatefulSet", model):
        kept = label_of(item, "revision") == revision
        if not (choice.suspend and kept and _is_within(item, choice)):
            yield f"{name_of(item)} is there at {condition(model, 'Ready').get('reason')}"
        elif item["spec"]["replicas"]:
            yield f"{name_of(item)} has {item['spec']['replicas']} pods"


def _stalled(model: Object, choice: Choice, state: State) -> Iterator[str]:
    """Groups of what served before and of what is asked for, and of nothing older."""
    status = model["status"]
    groups = state.owned("StatefulSet", model)
    revisions = {label_of(item, "revision") for item in groups}
    update = status.get("updateRevision", "")
    known = {status.get("currentRevision", ""), update}
    if update and not revisions <= known:
        yield f"has the revisions {sorted(revisions)}, not only {sorted(known)}"
    if len(revisions) > len(("what served", "what came")):
        yield f"has the revisions {sorted(revisions)}"
    for item in groups:
        if not _is_within(item, choice):
            yield f"{name_of(item)} is there at spec.replicas {choice.replicas}"


def _is_within(item: Object, choice: Choice) -> bool:
    return int(label_of(item, "group")) < choice.replicas


def _place(item: Object) -> tuple[str, str]:
    return label_of(item, "revision"), label_of(item, "group")


def _pods(model: Object, choice: Choice, state: State) -> Iterator[str]:
    """The pods of each group by their names, ready unless the model is stalled."""
    ready = condition(model, "Ready").get("status") == "True"
    for group in state.owned("StatefulSet", model):
        pods = state.owned("Pod", group)
        expected = [f"{name_of(group)}-{n}" for n in range(group["spec"]["replicas"])]
        if [name_of(pod) for pod in pods] != expected:
            yield f"{name_of(group)} has the pods {[name_of(pod) for pod in pods]}"
        for pod in pods:
            if ready and condition(pod, "Ready").get("status") != "True":
                yield f"pod {name_of(pod)} is not ready"


def _services(model: Object, choice: Choice, state: State) -> Iterator[str]:
    """One headless Service for each group, and the model's own, which sends to what serves."""
    groups = {_place(item) for item in state.owned("StatefulSet", model)}
    status = model["status"]
    endpoints = 0
    for item in state.owned("Service", model):
        if label_of(item, "role") == "endpoint":
            endpoints += 1
            sends_to = (item["spec"].get("selector") or {}).get("shardedmodel.dev/revision")
            if sends_to != status.get("currentRevision"):
                yield f"Service {name_of(item)} sends to {sends_to}"
        elif _place(item) not in groups:
            # Suspended before its StatefulSet was made, a group has its Service alone.
            waits = choice.suspend and label_of(item, "revision") == status.get("updateRevision")
            if not (waits and _is_within(item, choice)):
                yield f"Service {name_of(item)} has no group"
        else:
            groups.discard(_place(item))
    yield from (f"group {place} has no Service" for place in sorted(groups))
    if endpoints != bool(status.get("currentRevision")):
        yield f"has {endpoints} Services of its own"


def _jobs(model: Object, state: State) -> Iterator[str]:
    """The latest Job of what is asked for, and finished ones of the last former requests."""
    request = (model["status"].get("sharding") or {}).get("requestHash", "")
    jobs = state.owned("Job", model)
    former = [job for job in jobs if label_of(job, "request") != request]
    if len(former) > REVISION_HISTORY:
        yield f"has {len(former)} Jobs of former requests"
    for job in former:
        if condition(job, "Complete").get("status") != "True":
            yield f"Job {name_of(job)} is not of its request"
    present = [job for job in jobs if label_of(job, "request") == request]
    unfinished = [job for job in present if not _is_finished(job)]
    waits = condition(model, "Stalled").get("status") == "True"
    # One that failed is tried again at growing intervals; until the next one ends, both are there.
    if len(present) > 1 + waits or len(unfinished) > waits:
        yield f"has the Jobs {[name_of(job) for job in present]} of its request"


def _is_finished(job: Object) -> bool:
    return any(condition(job, kind).get("status") == "True" for kind in ("Complete", "Failed"))
