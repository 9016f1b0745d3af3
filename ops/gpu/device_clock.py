"""Time on a device: of graphs that are replayed on a GPU, of calls on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch


def synchronize(device: torch.device) -> None:
    """Waits for what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def call_us(run: Callable[[], object], device: torch.device, *, repeats: int = 10) -> float:
    """Microseconds of a call until the device is done, in the median."""
    times = []
    for _ in range(repeats + 2):
        synchronize(device)
        since = time.perf_counter()
        run()
        synchronize(device)
        times.append(1e6 * (time.perf_counter() - since))
    return median(times[2:])


def device_us(run: Callable[[], object], device: torch.device, *, repeats: int = 10) -> float:
    """Microseconds that the device computes, without what the host needs to launch it; on a CPU as `call_us`."""
    if device.type != "cuda":
        return call_us(run, device, repeats=repeats)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream), torch.inference_mode():
        run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.inference_mode():
        run()
    times = []
    for _ in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(1000 * start.elapsed_time(end))
    return median(times[2:])
