"""Samples in, a line of bench/results/NAME.json out."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"


def result(name: str, unit: str, samples: Sequence[float], reference: Sequence[float] = ()) -> dict[str, Any]:
    """reference: samples of the bare commands, or of a peer, from the same run, interleaved with these."""
    line: dict[str, Any] = {
        "name": name,
        "unit": unit,
        "runs": len(samples),
        "median": round(median(samples), 3),
        "worst": round(max(samples), 3),
        "samples": [round(sample, 3) for sample in samples],
    }
    if reference:
        line["reference"] = round(median(reference), 3)
        line["ratio"] = round(median(samples) / median(reference), 2)
    return line


def write(name: str, results: Sequence[dict[str, Any]]) -> None:
    """Writes bench/results/NAME.json and prints what it says."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(list(results), indent=1) + "\n")
    show(results)


def show(results: Sequence[dict[str, Any]]) -> None:
    """Prints what they say."""
    for line in results:
        ratio = f", {line['ratio']} x the reference ({line['reference']})" if "ratio" in line else ""
        print(
            f"{line['name']}: median {line['median']} {line['unit']}, worst {line['worst']}{ratio}, {line['runs']} runs"
        )
    print(f"on {platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}")
