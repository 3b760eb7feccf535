"""Split small models of many architectures over real process groups, and compare.

One process imports transformers, makes the checkpoints and their layouts, and forks the ranks of
each group; a group goes through all cases. With a file's name it writes the results there,
otherwise it prints them as a table.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers

from tests.integration.runtime.reference.cases import BY_HAND, CARRIED, LOGITS, WORLDS, Case
from tests.integration.runtime.reference.logits import Whole
from tests.integration.runtime.reference.shards import save_checkpoint, shard
from tests.integration.runtime.reference.splitting import compare

CONTROL = "llama"
"""The case whose ranks also compute with each other's shards, which has to show."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """One case, made ready for the ranks.

    Args:
        case: the case.
        checkpoint: folder of its checkpoint.
        layouts: their URIs, by the size of the group.
        whole: its unsharded model, where the sharded one is run.
    """

    case: Case
    checkpoint: Path
    layouts: dict[int, str]
    whole: Whole | None


def main() -> None:
    """Run all cases for all sizes of groups."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # Threads of the parent would not exist in forked ranks that wait for them.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = run(Path(folder), [*CARRIED, *BY_HAND])
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results))
    else:
        print(table(results))


def run(folder: Path, cases: list[Case]) -> list[Result]:
    """Results of every rank of every group, for every case."""
    work = [
        _prepared(case, folder / f"{number}-{case.model_type}") for number, case in enumerate(cases)
    ]
    context = multiprocessing.get_context("fork")
    results: list[Result] = []
    for world in WORLDS:
        files = [folder / f"{world}-{rank}.json" for rank in range(world)]
        ranks = [
            context.Process(target=_rank, args=(rank, world, folder, work, files[rank]))
            for rank in range(world)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        results += [result for file in files for result in json.loads(file.read_text())]
    return results


def _prepared(case: Case, home: Path) -> Work:
    checkpoint = home / "checkpoint"
    save_checkpoint(case, checkpoint)
    layouts = {world: shard(checkpoint, world) for world in WORLDS}
    return Work(case, checkpoint, layouts, Whole(checkpoint) if case.name in LOGITS else None)


def _rank(rank: int, world: int, folder: Path, work: list[Work], out: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group-{world}", rank=rank, world_size=world
    )
    results = []
    for item in work:
        result: Result = {"case": item.case.name, "world": world, "rank": rank}
        layout = item.layouts[world]
        try:
            if item.case in CARRIED:
                verdicts = compare(item.case, item.checkpoint, layout, rank, world)
                result |= {"verdicts": verdicts}
            if item.whole is not None:
                result["difference"], result["largest"] = item.whole.difference(layout, rank)
                if item.case.name == CONTROL:
                    other = (rank + 1) % world
                    result["swapped"], _ = item.whole.difference(layout, other)
        except Exception:  # noqa: BLE001 - it is the result, and the other cases go on
            result["error"] = traceback.format_exc()
        results.append(result)
    dist.destroy_process_group()
    out.write_text(json.dumps(results))


def table(results: list[Result]) -> str:
    """One line for each case and size of group."""
    lines = []
    for result in results:
        if result["rank"]:
            continue
        words = "; ".join(
            f"{count} {word}"
            for word, count in Counter(result.get("verdicts", {}).values()).items()
        )
        off = f"logits off by {result['difference']:.1e}" if "difference" in result else ""
        error = result.get("error", "").strip().rpartition("\n")[2]
        lines.append(f"{result['case']:24} tp{result['world']}  {off:24} {words} {error}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
