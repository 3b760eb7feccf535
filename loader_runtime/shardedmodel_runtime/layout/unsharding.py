"""Writes a layout's tensors as a plain Hugging Face checkpoint folder, whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from shardedmodel_runtime.errors import ConfigurationError, StorageError, excerpt
from shardedmodel_runtime.formats.hf import INDEX_KEY, SINGLE_KEY
from shardedmodel_runtime.formats.safetensors import build_header
from shardedmodel_runtime.layout.companions import restore_companions
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.objects import HEADER_METADATA
from shardedmodel_runtime.layout.recombine import recombine_layout
from shardedmodel_runtime.storage.base import ObjectStore

MAX_FILE_BYTES = 5 * 10**9
"""Where tensors go on in a next file: what ``save_pretrained`` of transformers does."""


def unshard(
    manifest: Manifest,
    store: ObjectStore,
    digests: Mapping[str, str],
    folder: Path,
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
    progressed: Callable[[int], None] = lambda count: None,
) -> list[Path]:
    """Recombine every tensor, bit for bit, into safetensors files, index and small files.

    Args:
        manifest: of the layout.
        store: the layout's folder.
        digests: the state of each object that was verified.
        folder: made by this; appears when all of it is written.
        max_file_bytes: tensors beyond it go to a next file.
        progressed: told of the bytes of each tensor written.

    Returns:
        The files: configuration and tokenizer, weights, and last their index where there is one.

    Raises:
        ConfigurationError: the folder is there already and not empty.
        LayoutError: the pieces do not fit together.
        StorageError: the layout cannot be read, or the folder not be written.
    """
    check_new(folder)
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(8)}")
    try:
        temporary.mkdir(parents=True)
        names = restore_companions(store, manifest, temporary)
        tensors = recombine_layout(manifest, store, digests)
        names += _write_files(manifest, tensors, temporary, max_file_bytes, progressed)
        os.replace(temporary, folder)  # replaces an empty folder, too
    except OSError as error:
        raise StorageError(f"FOLDER: {folder} cannot be written: {excerpt(str(error))}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / name for name in names]


def check_new(folder: Path) -> None:
    """See that nothing would be overwritten.

    Raises:
        ConfigurationError: the folder is there already and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"FOLDER: {folder} exists and is not empty; name a new one")


def _write_files(
    manifest: Manifest,
    tensors: Iterator[tuple[str, bytearray]],
    folder: Path,
    max_file_bytes: int,
    progressed: Callable[[int], None],
) -> list[str]:
    groups = _group(manifest, max_file_bytes)
    files = [SINGLE_KEY]
    if len(groups) > 1:
        files = [
            f"model-{number:05d}-of-{len(groups):05d}.safetensors"
            for number in range(1, len(groups) + 1)
        ]
    weight_map: dict[str, str] = {}
    for file, group in zip(files, groups, strict=True):
        entries = [(n, manifest.tensors[n].dtype, manifest.tensors[n].shape) for n in group]
        with (folder / file).open("wb") as out:
            out.write(build_header(entries, HEADER_METADATA))
            for name in group:
                found, data = next(tensors)
                assert found == name, "tensors come in the manifest's order"
                out.write(data)
                progressed(len(data))
                weight_map[name] = file
            out.flush()
            os.fsync(out.fileno())
    if len(groups) == 1:
        return files
    total = sum(cut.nbytes for cut in manifest.tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_KEY).write_text(json.dumps(index, indent=2))
    return [*files, INDEX_KEY]


def _group(manifest: Manifest, max_file_bytes: int) -> Sequence[Sequence[str]]:
    """Spread the tensors, in order, over as few files as their size allows; at least one."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, cut in manifest.tensors.items():
        if groups[-1] and filled + cut.nbytes > max_file_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += cut.nbytes
    return groups
