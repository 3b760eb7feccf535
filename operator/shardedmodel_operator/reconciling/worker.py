"""A worker: takes keys from the queue, reconciles them, and survives whatever one model does."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from shardedmodel_operator.cluster.cache import Key
from shardedmodel_operator.errors import OperatorError
from shardedmodel_operator.logs import current_model
from shardedmodel_operator.reconciling.metrics import Metrics
from shardedmodel_operator.reconciling.queue import WorkQueue

logger = logging.getLogger(__name__)


async def work(
    queue: WorkQueue,
    reconcile: Callable[[Key], Awaitable[float | None]],
    metrics: Metrics,
    clock: Callable[[], float],
    leads: Callable[[], bool],
) -> None:
    """Reconcile keys for ever.

    Args:
        queue: where keys come from.
        reconcile: reconciles one key and says when to come again.
        metrics: counts the outcomes.
        clock: seconds on a monotonic clock.
        leads: whether this operator acts; the keys of one that does not are dropped, since all
            models are enqueued anew when it comes to lead.
    """
    while True:
        key = await queue.get()
        if not leads():
            await queue.done(key, failed=False)
            continue
        current_model.set(str(key))
        started = clock()
        after, error = await _attempt(reconcile, key)
        metrics.reconciled(clock() - started, error)
        again = await queue.done(key, failed=bool(error), after=after)
        if error:
            logger.info("trying again in %.0f s", again or 0)
        current_model.set("")


async def _attempt(
    reconcile: Callable[[Key], Awaitable[float | None]], key: Key
) -> tuple[float | None, str]:
    """Reconcile once; gives when to come again, and the reason of a failure."""
    try:
        return await reconcile(key), ""
    except OperatorError as e:
        logger.warning("%s: %s", e.reason, e)
        return None, e.reason
    except Exception:  # the one place where a fault of ours must not end the others
        logger.exception("internal error")
        return None, "InternalError"
