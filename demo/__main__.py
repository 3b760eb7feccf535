"""``python -m demo up|down``: the whole main job on a real cluster, with one command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demo import scenario
from demo.clusters import PROVIDERS, client_tools
from demo.console import Console, DemoError, fail
from demo.diagnosis import diagnose
from demo.kubectl import Kubectl
from demo.record import write_record
from tests.devcluster import DevClusterError


def main(arguments: list[str] | None = None) -> int:
    """Run the demo, or take it away; returns the exit code."""
    options = _parser().parse_args(arguments)
    run = _up if options.verb == "up" else _down
    try:
        return run(options)
    except (DemoError, DevClusterError) as e:
        return fail(str(e))


def _up(options: argparse.Namespace) -> int:
    provider = PROVIDERS[options.cluster]()
    console = Console(steps=6)
    print(provider.announcement, flush=True)
    with console.step("Kubernetes"):
        provider.up(console.say)
    kubectl = Kubectl(*client_tools(), provider.kubeconfig())
    try:
        with console.step("images"):
            scenario.wait_for_api(kubectl)
            references = scenario.provide_images(provider, console)
        with console.step("S3 server in the cluster"):
            scenario.start_store(kubectl, references)
        with console.step("operator, by its Helm chart"):
            scenario.install_operator(kubectl, references)
        with console.step("checkpoints into the S3 server"):
            scenario.upload_checkpoints(kubectl, console)
        with console.step("one ShardedModel for each checkpoint"):
            outcomes = [scenario.run_model(kubectl, name, console) for name in scenario.MODELS]
    except DemoError:
        spaces = [scenario.DEMO_NAMESPACE, scenario.SYSTEM_NAMESPACE]
        print("\n".join(diagnose(kubectl, spaces)), file=sys.stderr)
        raise
    scenario.show(kubectl, outcomes)
    if options.record:
        print(f"recorded in {write_record(options.record, outcomes, console.seconds)}")
    kubeconfig = provider.kubeconfig()
    if kubeconfig is not None:
        print(f"Look around: export KUBECONFIG={kubeconfig}; `make demo-down` removes it all.")
    return 0


def _down(options: argparse.Namespace) -> int:
    provider = PROVIDERS[options.cluster]()
    console = Console(steps=1)
    with console.step("taking the demo away"):
        if options.cluster == "current":
            scenario.remove(Kubectl(*client_tools(), None))
        provider.down(console.say)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("verb", choices=("up", "down"))
    parser.add_argument("--cluster", choices=sorted(PROVIDERS), default="devcluster")
    parser.add_argument(
        "--record", type=Path, metavar="FOLDER", help="write the figures as a dated file there"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
