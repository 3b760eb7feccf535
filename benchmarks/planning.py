"""Measure planning: headers of 700 GB in 94,000 tensors, made of headers alone.

Run with ``python -m benchmarks.planning``; writes ``planning-<date>.json`` beside this file. The
files are sparse: their headers are real, their weights are holes that nobody reads.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import records
from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.cli import main as shardedmodel
from shardedmodel_runtime.formats.dtypes import tensor_bytes
from shardedmodel_runtime.formats.hf import INDEX_KEY
from shardedmodel_runtime.formats.safetensors import build_header
from shardedmodel_runtime.layout.objects import plan_objects
from shardedmodel_runtime.memory import peak_memory_bytes
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.storage.opening import open_store

LAYERS, DENSE_LAYERS, EXPERTS = 61, 3, 256
"""Of DeepSeek-V3, as it is published."""
FILES = 160
"""About as many as DeepSeek-V3 is published in (163): each is a request for its header."""
RUNS = 5
"""Of which two that are disturbed leave the median where it is."""
TENSOR, EXPERT = 8, 8
"""64 ranks, eight nodes of eight GPUs: experts over nodes, the rest within each of them."""
RULES = (
    Rule("*.experts.*.gate_proj.weight", "experts", inner="column"),
    Rule("*.experts.*.up_proj.weight", "experts", inner="column"),
    Rule("*.experts.*.down_proj.weight", "experts", inner="row"),
    Rule("*mlp*.gate_proj.weight", "column"),
    Rule("*mlp*.up_proj.weight", "column"),
    Rule("*mlp*.down_proj.weight", "row"),
    Rule("*.self_attn.q_b_proj.weight", "column"),
    Rule("*.self_attn.kv_b_proj.weight", "column"),
    Rule("*.self_attn.o_proj.weight", "row"),
    Rule("*embed_tokens.weight", "vocab"),
    Rule("*lm_head.weight", "vocab"),
    Rule("*", "replicate"),
)
"""How DeepSeek-V3 is cut, whatever this release's own rules say of it."""

Entry = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape of a tensor."""


def config() -> dict[str, Any]:
    """``config.json``: what DeepSeek-V3 publishes, as far as planning reads it."""
    return {
        "model_type": "deepseek_v3",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "num_hidden_layers": LAYERS,
        "n_routed_experts": EXPERTS,
        "n_shared_experts": 1,
        "first_k_dense_replace": DENSE_LAYERS,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "vocab_size": 129280,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }


def tensors() -> Iterator[Entry]:
    """Every tensor of the checkpoint, with the names and shapes of DeepSeek-V3."""
    yield "model.embed_tokens.weight", "BF16", (129280, 7168)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", "BF16", (7168,)
        yield f"{prefix}.post_attention_layernorm.weight", "BF16", (7168,)
        yield f"{prefix}.self_attn.q_a_layernorm.weight", "BF16", (1536,)
        yield f"{prefix}.self_attn.kv_a_layernorm.weight", "BF16", (512,)
        for name, rows, columns in (
            ("q_a_proj", 1536, 7168),
            ("q_b_proj", 24576, 1536),
            ("kv_a_proj_with_mqa", 576, 7168),
            ("kv_b_proj", 32768, 512),
            ("o_proj", 7168, 16384),
        ):
            yield from quantised(f"{prefix}.self_attn.{name}", rows, columns)
        if layer < DENSE_LAYERS:
            yield from gated(f"{prefix}.mlp", 18432)
            continue
        yield f"{prefix}.mlp.gate.weight", "BF16", (EXPERTS, 7168)
        yield f"{prefix}.mlp.gate.e_score_correction_bias", "F32", (EXPERTS,)
        yield from gated(f"{prefix}.mlp.shared_experts", 2048)
        for expert in range(EXPERTS):
            yield from gated(f"{prefix}.mlp.experts.{expert}", 2048)
    yield "model.norm.weight", "BF16", (7168,)
    yield "lm_head.weight", "BF16", (129280, 7168)


def gated(prefix: str, width: int) -> Iterator[Entry]:
    """A gated feed-forward network."""
    for name in ("gate_proj", "up_proj"):
        yield from quantised(f"{prefix}.{name}", width, 7168)
    yield from quantised(f"{prefix}.down_proj", 7168, width)


def quantised(name: str, rows: int, columns: int) -> Iterator[Entry]:
    """A weight in FP8 with a scale for each block of 128 by 128."""
    yield f"{name}.weight", "F8_E4M3", (rows, columns)
    yield f"{name}.weight_scale_inv", "F32", (-(-rows // 128), -(-columns // 128))


def write_headers(folder: Path) -> dict[str, int]:
    """Write the checkpoint's headers, and holes behind them."""
    entries = list(tensors())
    sizes = [tensor_bytes(dtype, shape) for _, dtype, shape in entries]
    weight_map: dict[str, str] = {}
    for number in range(FILES):
        own = slice(number * len(entries) // FILES, (number + 1) * len(entries) // FILES)
        file = f"model-{number + 1:05d}-of-{FILES:06d}.safetensors"
        header = build_header(entries[own], {"format": "pt"})
        (folder / file).write_bytes(header)
        os.truncate(folder / file, len(header) + sum(sizes[own]))
        weight_map |= {name: file for name, _, _ in entries[own]}
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / INDEX_KEY).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return {"tensors": len(entries), "bytes": sum(sizes), "files": FILES}


def measure(uri: str) -> dict[str, Any]:
    """Read and plan once, in this process."""
    began, cpu = time.perf_counter(), time.process_time()
    with open_store(uri) as store:
        metadata = CheckpointMetadata.read(store)
        requests, received = store.requests, store.bytes_read
    read = time.perf_counter()
    plan = WeightDistributor(Parallelism(TENSOR, 1, EXPERT), RULES).plan(metadata)
    planned = time.perf_counter()
    plan.digest()
    digested, cpu = time.perf_counter(), time.process_time() - cpu
    objects = plan_objects(plan)
    laid_out = time.perf_counter()
    return {
        "readSeconds": read - began,
        "planSeconds": planned - read,
        "digestSeconds": digested - planned,
        "objectsSeconds": laid_out - digested,
        "planningSeconds": digested - began,
        "planningCpuSeconds": cpu,
        "requests": requests,
        "bytesRead": received,
        "objects": len(objects),
        "peakMemoryMiB": peak_memory_bytes() / 2**20,
    }


def sizes_of_output(uri: str) -> dict[str, int]:
    """Bytes of the plan as JSON, and lines of its table."""
    rules = json.dumps([asdict(rule) for rule in RULES])
    degrees = ["--tensor", str(TENSOR), "--expert", str(EXPERT), "--rules", rules]
    texts = []
    for more in (["--json"], []):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            if shardedmodel(["plan", uri, *degrees, *more]):
                raise SystemExit("the plan failed")
        texts.append(out.getvalue())
    return {"planBytes": len(texts[0].encode()), "tableLines": texts[1].count("\n")}


def main() -> int:
    """Measure every run in a process of its own, and write the dated file."""
    parser = records.parser("planning", __doc__)
    parser.add_argument("--measure", metavar="URI", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        made = write_headers(Path(folder))
        uri = Path(folder).as_uri()
        command = [sys.executable, "-m", "benchmarks.planning", "--measure", uri]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(RUNS)]
        output = sizes_of_output(uri)
    what = f"headers of a DeepSeek-V3-like checkpoint, tensor {TENSOR} x expert {EXPERT}"
    record = records.heading(what) | {
        "machine": records.machine() | {"loadAverage": round(os.getloadavg()[0], 1)},
        "runs": RUNS,
        "checkpoint": made,
        "output": output,
        "results": {key: records.spread(run[key] for run in runs) for key in runs[0]},
    }
    records.write(record, options.output, "planning")
    print(json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
