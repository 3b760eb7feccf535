"""A rank process: ``python -m shardedmodel_runtime.rank.worker OPTIONS DESCRIPTOR``.

Started by the supervisor with the environment that torch expects. Torch is imported after the
first report is on its way, since that takes seconds.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from typing import NoReturn

from shardedmodel_runtime import logs
from shardedmodel_runtime.errors import GroupError, ShardedModelError, excerpt
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.rank.options import Place, RankOptions
from shardedmodel_runtime.rank.pipe import RankMessage, Reporter
from shardedmodel_runtime.rank.status import RankStatus
from shardedmodel_runtime.report import MESSAGE_LIMIT, Failure

logger = logging.getLogger(__name__)

UNEXPECTED_EXIT_CODE = 1
"""Of what is not one of our errors: a bug, or the entrypoint's own failure."""


def main(options: RankOptions, descriptor: int) -> int:
    """Run one rank until it fails; its supervisor ends it by a signal.

    Args:
        options: what the pod runs.
        descriptor: the writing end of the supervisor's pipe.

    Returns:
        The exit code of the failure.
    """
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    place = Place.from_environment()
    status = RankStatus(rank, place.pod, place.node)
    reporter = Reporter(descriptor, lambda: RankMessage(rank=status.report()))
    reporter.start()
    # Why comes before cleaning up, which may hang on what failed.
    with ExitStack() as cleaning:
        try:
            config = options.load_config(rank, local_rank)
            _run(options, config, place, status, reporter, cleaning)
        except ShardedModelError as error:
            failure, code = Failure.of(error), error.exit_code
        except Exception as error:
            logger.exception("rank %d failed", rank)
            failure, code = describe_unexpected(error), UNEXPECTED_EXIT_CODE
        report_failure(reporter, status, failure, code)
    reporter.stop()
    return code


def _run(
    options: RankOptions,
    config: ModelLoadConfig,
    place: Place,
    status: RankStatus,
    reporter: Reporter,
    cleaning: ExitStack,
) -> None:
    with status.phase("start"):
        from shardedmodel_runtime.rank.distributor import ModelDistributor
        from shardedmodel_runtime.rank.entrypoint import resolve
    entrypoint = resolve(options.entrypoint) if options.entrypoint else None
    distributor = cleaning.enter_context(
        ModelDistributor(
            config,
            place=place,
            backend=options.backend,
            join_timeout_seconds=options.join_timeout_seconds,
            status=status,
        )
    )
    reporter.compose = lambda: RankMessage(
        rank=distributor.report(), group=distributor.group_report()
    )
    distributor.run(entrypoint, lambda: end_for_change(reporter, status))


def report_failure(reporter: Reporter, status: RankStatus, failure: Failure, code: int) -> None:
    """Tell the supervisor, and the group, why this rank gives up."""
    status.update(state="failed", message=failure.message)
    message = reporter.compose().model_copy(update={"failure": failure, "exit_code": code})
    reporter.compose = lambda: message
    reporter.send(message)


def describe_unexpected(error: Exception) -> Failure:
    """Make a failure of what is not one of our errors."""
    text = f"{type(error).__name__}: {excerpt(str(error), MESSAGE_LIMIT // 2)}"
    return Failure(reason="InternalError", message=f"unexpected {text}; see the log")


def end_for_change(reporter: Reporter, status: RankStatus) -> NoReturn:
    """End a process whose entrypoint is running in a group that is no more."""
    error = GroupError("the group changed while the entrypoint was running; it begins anew")
    report_failure(reporter, status, Failure.of(error), error.exit_code)
    os._exit(error.exit_code)  # the main thread is the user's, and may never come back


if __name__ == "__main__":
    logs.configure()
    sys.exit(main(RankOptions.model_validate_json(sys.argv[1]), int(sys.argv[2])))
