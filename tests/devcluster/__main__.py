"""The command line: ``python -m tests.devcluster``, from the root of the repository."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from tests.devcluster import images
from tests.devcluster.cluster import Cluster, require_up
from tests.devcluster.errors import DevClusterError, LeftoverError
from tests.devcluster.settings import MAX_SLOT
from tests.devcluster.shell import Progress


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, or 1 with the reason on stderr."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options, _progress(time.monotonic()))
    except DevClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


def _progress(started: float) -> Progress:
    def show(line: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {line}", file=sys.stderr, flush=True)

    return show


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.devcluster",
        description="A real single-node Kubernetes without Docker, on Debian 12 as root.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    slot = argparse.ArgumentParser(add_help=False)
    slot.add_argument(
        "--slot",
        type=int,
        choices=range(MAX_SLOT + 1),
        default=0,
        metavar="N",
        help=f"which cluster, 0 to {MAX_SLOT}; they are independent (default: 0)",
    )

    up = commands.add_parser("up", parents=[slot], help="install, build and start what is missing")
    up.add_argument(
        "--control-plane-only", action="store_true", help="only etcd and the API server"
    )
    up.add_argument(
        "--controllers", action="store_true", help="with it, the controller-manager as well"
    )
    up.set_defaults(run=_up)

    down = commands.add_parser("down", parents=[slot], help="take it away, and verify that")
    down.add_argument("--check", action="store_true", help="only list what there is of it")
    down.add_argument("--images", action="store_true", help="forget the imported images too")
    down.set_defaults(run=_down)

    status = commands.add_parser("status", parents=[slot], help="say what runs; exit 1 if not up")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(run=_status)

    config = commands.add_parser("kubeconfig", parents=[slot], help="print the kubeconfig's path")
    config.set_defaults(run=_kubeconfig)

    load = commands.add_parser("load-image", parents=[slot], help="import image archives")
    load.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    load.set_defaults(run=_load)

    build = commands.add_parser("build-image", help="build an image from a Dockerfile")
    build.add_argument("--file", type=Path, required=True, help="the Dockerfile")
    build.add_argument("--context", type=Path, required=True, help="the folder that it copies from")
    build.add_argument("--tag", required=True)
    build.add_argument("--base", default=images.BASE_TAG, help="BASE (default: %(default)s)")
    build.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    build.add_argument("--target", help="the stage of the Dockerfile")
    build.add_argument("--output", type=Path, help="the archive (default: one in the cache)")
    build.set_defaults(run=_build)
    return parser


def _up(options: argparse.Namespace, progress: Progress) -> int:
    cluster = Cluster(options.slot)
    cluster.up(
        control_plane_only=options.control_plane_only,
        controllers=options.controllers,
        progress=progress,
    )
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


def _down(options: argparse.Namespace, progress: Progress) -> int:
    cluster = Cluster(options.slot)
    if not options.check:
        cluster.down(keep_images=not options.images, progress=progress)
    if found := cluster.leftovers():
        raise LeftoverError(found)
    return 0


def _status(options: argparse.Namespace, _: Progress) -> int:
    status = Cluster(options.slot).status()
    if options.json:
        print(json.dumps(dataclasses.asdict(status), indent=1))
    else:
        print(f"slot {status.slot}: {status.mode}, Kubernetes {status.server or '-'}")
        for name, alive in status.components.items():
            print(f"  {name}: {'running' if alive else 'ended'}")
        print(f"logs: {status.logs}")
    return 0 if status.up else 1


def _kubeconfig(options: argparse.Namespace, _: Progress) -> int:
    cluster = Cluster(options.slot)
    require_up(cluster)
    print(cluster.kubeconfig)
    return 0


def _load(options: argparse.Namespace, progress: Progress) -> int:
    cluster = Cluster(options.slot)
    require_up(cluster)
    cluster.load_image(*options.archives, progress=progress)
    return 0


def _build(options: argparse.Namespace, progress: Progress) -> int:
    arguments = dict(pair.split("=", 1) for pair in options.build_arg)
    archive = images.build_image(
        options.file,
        options.context,
        options.tag,
        build_args={"BASE": options.base, **arguments},
        target=options.target,
        output=options.output,
        progress=progress,
    )
    print(archive)
    return 0


if __name__ == "__main__":
    sys.exit(main())
