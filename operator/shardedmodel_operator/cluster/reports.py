"""Pulling of reports from Job and rank pods: bounded in time and size, trusted in nothing.

A pod's answer is validated against the schema that both sides share. Whatever goes wrong, there
is simply no report: it is news about a pod, never a condition for reconciling it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TypeVar

import aiohttp
from pydantic import ValidationError

from shardedmodel_operator.planning.observed import ReportTarget
from shardedmodel_runtime.errors import excerpt
from shardedmodel_runtime.report import REPORT_BYTES_LIMIT, GroupReport, ShardProgress

logger = logging.getLogger(__name__)

Report = TypeVar("Report", ShardProgress, GroupReport)

CONNECT_SECONDS = 1.0
"""Time to connect: a pod in the same cluster answers in milliseconds or not at all."""
TOTAL_SECONDS = 2.0
"""Time for the whole report: a worker must not wait for a pod that hangs."""

CHUNK_BYTES = 64 * 1024
"""Read at a time, so that a pod that never ends its answer is cut off at the limit."""

PARALLEL = 64
"""Reports that are pulled at a time; a model of a thousand groups must not open as many sockets."""


class ReportClient:
    """Pulls reports over plain HTTP, in parallel; to be used from one event loop."""

    async def pull(
        self, targets: Sequence[ReportTarget]
    ) -> tuple[dict[str, ShardProgress], dict[str, GroupReport]]:
        """Pull each target's report.

        Returns:
            Progress of Jobs and reports of groups by their targets' keys; what could not be
            pulled is absent.
        """
        # No proxy of the environment, which is not for pods; no expansion of compressed answers.
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=PARALLEL),
            timeout=aiohttp.ClientTimeout(total=TOTAL_SECONDS, sock_connect=CONNECT_SECONDS),
            trust_env=False,
            auto_decompress=False,
        ) as session:
            answers = await asyncio.gather(*(_fetch(session, t.url) for t in targets))
        shards: dict[str, ShardProgress] = {}
        groups: dict[str, GroupReport] = {}
        for target, answer in zip(targets, answers, strict=True):
            if target.kind == "ShardProgress":
                _keep(shards, target, ShardProgress, answer)
            else:
                _keep(groups, target, GroupReport, answer)
        return shards, groups


async def _fetch(session: aiohttp.ClientSession, url: str) -> bytes | None:
    try:
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                logger.debug("%s: HTTP %d", url, answer.status)
                return None
            return await _read(url, answer.content)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as e:
        logger.debug("%s: %s", url, excerpt(f"{type(e).__name__} {e}"))
        return None


async def _read(url: str, stream: aiohttp.StreamReader) -> bytes | None:
    """Read to the end; None when that lies beyond the limit."""
    received = bytearray()
    async for chunk in stream.iter_chunked(CHUNK_BYTES):
        received += chunk
        if len(received) > REPORT_BYTES_LIMIT:
            logger.debug("%s: more than %d bytes", url, REPORT_BYTES_LIMIT)
            return None
    return bytes(received)


def _keep(
    reports: dict[str, Report], target: ReportTarget, model: type[Report], answer: bytes | None
) -> None:
    """Keep an answer that is what the schema says."""
    if answer is None:
        return
    try:
        reports[target.key] = model.read(answer)
    except ValidationError as e:
        logger.debug("%s: not a %s: %s", target.url, model.__name__, excerpt(str(e)))
