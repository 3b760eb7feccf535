"""The limit of files, and other libraries that read them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from benchmarks.peers.task import PAGE_BYTES, Load, Task, buffers


def raw_file_fresh(task: Task) -> Load:
    """``preadv`` in two threads into memory that is new, as every other loader's is."""
    return raw_file(task, prefault=False)


def raw_file(task: Task, prefault: bool = True) -> Load:
    """The limit of files: ``preadv`` in two threads into a buffer whose pages are there already."""
    into = buffers(task, prefault)
    files = [os.open(path, os.O_RDONLY) for path in task.paths]

    def read(span: tuple[int, int, int]) -> None:
        number, start, stop = span
        while start < stop:
            start += os.preadv(files[number], [into[number][start:stop]], start)

    def load() -> object:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read, task.ranges()))
        return into

    return load


def safetensors(task: Task) -> Load:
    """Safetensors' own ``load_file``, and a touch of every page, without which nothing is read.

    Tensors of less than a page are not touched: it would take longer than to bring their page.
    """
    from safetensors.torch import load_file

    def load() -> object:
        tensors = {name: t for path in task.paths for name, t in load_file(path).items()}
        for tensor in tensors.values():
            if tensor.nbytes >= PAGE_BYTES:
                tensor.flatten()[:: PAGE_BYTES // tensor.element_size()].sum()
        return tensors

    return load


def fastsafetensors(task: Task) -> Load:
    """Fastsafetensors on the CPU."""
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
    loader.add_filenames({0: task.paths})

    def load() -> object:
        held = loader.copy_files_to_device()
        return held, {name: held.get_tensor(name) for name in loader.get_keys()}

    return load
