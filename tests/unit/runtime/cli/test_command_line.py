from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import shardedmodel_runtime
from shardedmodel_runtime import cli, process_one
from shardedmodel_runtime.cli import COMMANDS, main
from shardedmodel_runtime.errors import AccessDenied
from shardedmodel_runtime.layout.job import ShardJob
from shardedmodel_runtime.report import Failure, ShardSummary
from tests.builders.layout import Checkpoint, make_checkpoint, shard


@pytest.fixture(autouse=True)
def _same_signals_afterwards() -> object:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "source", "bert")


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return (tmp_path / "shards").as_uri()


def test_shard_prints_the_layouts_address(
    checkpoint: Checkpoint, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shard", checkpoint.uri, storage, "--tensor", "2"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{storage}/")
    assert "made 3 objects" in err


def test_shard_leaves_its_summary_for_the_kubelet(
    tmp_path: Path, checkpoint: Checkpoint, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    arguments = ["shard", checkpoint.uri, storage, "--tensor", "2", "--json"]
    assert main([*arguments, "--termination-log", str(log)]) == 0
    assert log.read_text() == capsys.readouterr().out.strip()
    assert ShardSummary.model_validate_json(log.read_bytes()).objects == 3


def test_shard_leaves_its_failure_for_the_kubelet(
    tmp_path: Path, checkpoint: Checkpoint, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    arguments = ["shard", f"{checkpoint.uri}-gone", storage, "--tensor", "2"]
    assert main([*arguments, "--termination-log", str(log)]) == 4
    failure = Failure.model_validate_json(log.read_bytes())
    assert (failure.reason, failure.retryable) == ("NotFound", False)
    assert capsys.readouterr().err == f"error: NotFound: {failure.message}\n"


def test_an_unexpected_error_is_reported_without_its_text(
    tmp_path: Path, checkpoint: Checkpoint, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ShardJob) -> ShardSummary:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(ShardJob, "run", fail)
    log = tmp_path / "log"
    arguments = ["shard", checkpoint.uri, storage, "--tensor", "2"]
    with pytest.raises(ZeroDivisionError):
        main([*arguments, "--termination-log", str(log)])
    failure = Failure.model_validate_json(log.read_bytes())
    assert failure.reason == "InternalError"
    assert "secret" not in failure.message


def test_shard_names_what_no_rule_matched(
    tmp_path: Path, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_checkpoint(tmp_path / "source", "bert", config={"model_type": "unheard-of"})
    rules = '[{"match": "*.dense.weight", "strategy": "replicate"}]'
    assert main(["shard", source.uri, storage, "--tensor", "2", "--rules", rules]) == 0
    assert "which every rank holds whole: embeddings." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--tensor", "0"], "parallelism.tensor: 0"),
        (["--tensor", "3"], "InvalidSharding"),
        (["--tensor", "2", "--pipeline", "3"], "parallelism.pipeline: 3"),
        (["--tensor", "2", "--rules", "["], "--rules: not JSON"),
        (["--tensor", "2", "--rules", "no/such/file"], "--rules: no/such/file: No such file"),
        (["--tensor", "2", "--source-endpoint-url", "x"], "endpointUrl: 'x'"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_code_2(
    checkpoint: Checkpoint,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    complaint: str,
) -> None:
    assert main(["plan", checkpoint.uri, *flags]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["shard"],
        ["plan", "file:///x", "--tensor", "two"],
        ["plan", "file:///x", "--tens", "2"],
        ["verify", "file:///x", "--nonsense"],
    ],
)
def test_unknown_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "shard", "reshard", "verify", "unshard"])
def test_help_names_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "exit codes:" in capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(summary in out for summary in COMMANDS.values())


def test_commands_but_rank_import_no_torch(checkpoint: Checkpoint) -> None:
    code = (
        "import sys; from shardedmodel_runtime.cli import main; "
        f"main(['plan', '{checkpoint.uri}', '--tensor', '2']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_an_interrupt_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("shardedmodel_runtime.cli.plan.run", interrupt)
    assert main(["plan", "file:///x", "--tensor", "2"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_while_a_command_is_imported_is_one_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shardedmodel_runtime.cli.import_module", interrupt)
    assert main(["plan", "file:///x", "--tensor", "2"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_anything_is_written_ends_the_job_at_once(
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    def receive(job: ShardJob) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(ShardJob, "run", receive)
    storage, log = (tmp_path / "shards").as_uri(), tmp_path / "log"
    arguments = ["shard", checkpoint.uri, storage, "--tensor", "2", "--termination-log", str(log)]
    before = signal.getsignal(number)
    assert main(arguments) == 143
    assert "asked to end" in capsys.readouterr().err
    failure = Failure.model_validate_json(log.read_bytes())
    assert (failure.reason, failure.retryable) == ("Terminated", True)
    assert signal.getsignal(number) == before


def test_no_library_takes_a_signal_for_a_failure_of_its_own(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def receive(job: ShardJob) -> None:
        with suppress(Exception):  # as botocore does, which then asks again
            signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the job went on")

    monkeypatch.setattr(ShardJob, "run", receive)
    arguments = ["shard", checkpoint.uri, (tmp_path / "shards").as_uri(), "--tensor", "2"]
    assert main(arguments) == 143


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_a_port_that_is_none_is_told(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], port: str
) -> None:
    storage = (tmp_path / "shards").as_uri()
    with pytest.raises(SystemExit) as ended:
        main(["shard", checkpoint.uri, storage, "--tensor", "2", f"--port={port}"])
    assert ended.value.code == 2
    assert f"argument --port: {port!r} is no port" in capsys.readouterr().err


def test_workers_take_their_number_from_the_indexed_job(
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["shard", checkpoint.uri, (tmp_path / "shards").as_uri(), "--tensor", "2"]
    arguments += ["--workers", "2", "--json"]
    complete = []
    for index in ("0", "1"):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
        assert main(arguments) == 0
        complete.append(json.loads(capsys.readouterr().out)["complete"])
    assert complete == [False, True]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "2"], "say which of the 2 workers this is"),
        (["--workers", "2", "--worker-index", "2"], "2 is not below --workers 2"),
        (["--workers", "0"], "--workers: 0 is not 1 or more"),
    ],
)
def test_a_worker_that_is_none_of_them_is_refused(
    checkpoint: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    storage = (tmp_path / "shards").as_uri()
    assert main(["shard", checkpoint.uri, storage, "--tensor", "2", *flags]) == 2
    assert message in capsys.readouterr().err


def test_half_a_key_pair_is_no_access(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOURCE_AWS_ACCESS_KEY_ID", "key")
    assert main(["plan", checkpoint.uri, "--tensor", "2"]) == AccessDenied.exit_code
    assert "SOURCE_AWS_SECRET_ACCESS_KEY is not set" in capsys.readouterr().err


def test_the_plan_is_a_table(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", checkpoint.uri, "--tensor", "2"]) == 0
    out = capsys.readouterr().out
    (query,) = [line for line in out.splitlines() if ".attention.self.query.weight" in line]
    assert query.split() == [
        *("encoder.layer.*.attention.self.query.weight", "2", "F32", "[32,", "32]", "heads"),
        *("dim", "0", "over", "2", "tensor", "ranks", f"{2 * 32 * 32 * 4:,}", f"{32 * 32 * 4:,}"),
    ]
    assert re.search(r"^  ranks 0 to 1 +[\d,]+$", out, re.MULTILINE)
    assert "memory for each GPU: 47.75 KiB of weights (rank 0)" in out
    assert "dimension 0 is padded by 27 rows" in out
    assert re.search(r"in 1 file; .*\n2 ranks: [\d,]+ bytes each", out, re.DOTALL)


def test_ranks_of_unequal_bytes_are_listed_and_too_many_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint(tmp_path / "llama", "llama", config={"num_hidden_layers": 3})
    command = ["plan", source.uri, "--tensor", "2", "--pipeline", "2"]
    assert main(command) == 0
    assert "  ranks 0 to 1" in (out := capsys.readouterr().out)
    assert "  ranks 2 to 3" in out
    monkeypatch.setattr("shardedmodel_runtime.cli.plan.RANK_LINES_SHOWN", 1)
    assert main(command) == 0
    assert "  ranks" not in (out := capsys.readouterr().out)
    assert "4 ranks: " in out


def test_kinds_of_tensors_beyond_measure_are_counted(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardedmodel_runtime.cli.plan.GROUPS_SHOWN", 3)
    assert main(["plan", checkpoint.uri, "--tensor", "2"]) == 0
    assert re.search(r"^and \d+ more kinds; --json has all$", capsys.readouterr().out, re.MULTILINE)


def test_a_cast_is_in_the_plan(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", checkpoint.uri, "--tensor", "2", "--dtype", "bfloat16"]) == 0
    assert "F32 to BF16" in capsys.readouterr().out


def test_the_plan_warns_of_what_no_rule_matched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_checkpoint(tmp_path / "other", "bert", config={"model_type": "unheard-of"})
    rules = '[{"match": "*.dense.weight", "strategy": "replicate"}]'
    assert main(["plan", source.uri, "--tensor", "2", "--rules", rules]) == 0
    out = capsys.readouterr().out
    assert "replicate (no rule)" in out
    assert "warning: no rule matched" in out
    assert re.search(r"^  and \d+ more$", out, re.MULTILINE)


def test_the_plan_as_json_has_every_tensor_and_every_rank(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", checkpoint.uri, "--tensor", "2", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tensors"].keys() == checkpoint.tensors.keys()
    assert len(plan["rankBytes"]) == 2
    assert sum(group["tensors"] for group in plan["groups"]) == len(plan["tensors"])
    assert sum(group["rankBytes"] for group in plan["groups"]) == plan["rankBytes"][0]
    assert any("padded" in text for text in plan["warnings"])
    assert plan["bytes"] == checkpoint.tensor_bytes


def test_a_whole_layout_is_verified(
    checkpoint: Checkpoint, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = shard(checkpoint.uri, storage, 2)[2]
    assert main(["verify", uri]) == 0
    assert re.match(r"3 objects, [0-9.]+ kB: all as the manifest says\n", capsys.readouterr().out)


def flip_last_bit(uri: str) -> None:
    path = Path(uri.removeprefix("file://")) / "common/part-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_broken_layout_is_exit_code_6_and_named(
    checkpoint: Checkpoint, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = shard(checkpoint.uri, storage, 2)[2]
    flip_last_bit(uri)
    assert main(["verify", uri]) == 6
    assert "error: ChecksumMismatch: common/part-00000" in capsys.readouterr().err
    assert main(["verify", uri, "--json"]) == 6
    result = json.loads(capsys.readouterr().out)
    assert [problem["key"] for problem in result["problems"]] == ["common/part-00000.safetensors"]


def test_a_layout_that_is_not_there_is_exit_code_6(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", f"{storage}/nope"]) == 6
    assert capsys.readouterr().err.startswith("error: LayoutNotFound: ")


def test_a_layout_is_put_together_again(
    tmp_path: Path, checkpoint: Checkpoint, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = shard(checkpoint.uri, storage, 2)[2]
    assert main(["unshard", uri, str(tmp_path / "out")]) == 0
    names = ["config.json", "model.safetensors"]
    assert capsys.readouterr().out.split() == [f"{tmp_path}/out/{name}" for name in names]
    assert main(["unshard", uri, str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "files": [f"{tmp_path}/again/{name}" for name in names],
        "bytes": checkpoint.tensor_bytes,
        "tensors": len(checkpoint.tensors),
    }


def test_a_layout_is_cut_anew(
    checkpoint: Checkpoint, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = shard(checkpoint.uri, storage, 2)[2]
    assert main(["reshard", uri, storage, "--tensor", "4"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == shard(checkpoint.uri, storage, 4)[2]
    assert "made 5 objects" in err
    assert main(["reshard", uri, storage, "--tensor", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"]


@pytest.mark.parametrize(("tensor", "code"), [("3", 2), ("0", 2)])
def test_a_layout_is_not_cut_for_ranks_that_do_not_fit(
    checkpoint: Checkpoint, storage: str, tensor: str, code: int
) -> None:
    uri = shard(checkpoint.uri, storage, 2)[2]
    assert main(["reshard", uri, storage, "--tensor", tensor]) == code
    assert main(["reshard", f"{uri}0", storage, "--tensor", "2"]) == 6


def test_a_broken_layout_is_not_put_together(
    tmp_path: Path, checkpoint: Checkpoint, storage: str
) -> None:
    uri = shard(checkpoint.uri, storage, 2)[2]
    flip_last_bit(uri)
    assert main(["unshard", uri, str(tmp_path / "out")]) == 6
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_a_checkpoints_folder_is_told(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", f"{checkpoint.uri}/config.json", "--tensor", "2"]) == 4
    assert "config.json is a file; name the folder that it is in" in capsys.readouterr().err


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shardedmodel_runtime", "--version"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == shardedmodel_runtime.__version__


def test_sigterm_ends_the_main_process_of_a_container_before_its_command_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end_at_once(code: int) -> None:
        raise SystemExit(code)  # stands for the end of the process, which is that of the tests

    monkeypatch.setattr(process_one, "is_init", lambda: True)
    monkeypatch.setattr("os._exit", end_at_once)
    monkeypatch.setattr(cli, "_parse", lambda arguments: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        main(["rank", "s3://shards/0123abcd"])
    assert ended.value.code == 143
