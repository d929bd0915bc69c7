#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LTC learns one sequence: x = [sin, cos] over 1.5 turns, y = sin over 3 turns, 48 rows (the sine example of ncps).

The set-up is that of the ncps documentation: AutoNCP(16, 1), mean squared error, Adam at 0.01, 400 steps, clipped to a
norm of 1. It passes if the trained model's MSE is at most 1e-3 for 8 of 10 seeds. The MSE is taken from what
`carousel predict` writes for the last checkpoint, not from the training log.

    python3 experiments/ltc_sine.py [--carousel build/release/carousel] [--out DIR]
"""

import argparse
import csv
import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROWS = 48
SEEDS = 10
BOUND = 1e-3
NEEDED = 8
CONFIG = {
    "model_type": "ltc",
    "input_size": 2,
    "wiring": {"type": "AutoNCP", "units": 16, "output_size": 1, "sparsity_level": 0.5, "seed": 22222},
    "ode_unfolds": 6,
    "epsilon": 1e-8,
}
RECIPE = ("--steps 400 --batch 1 --seq 48 --lr 0.01 --schedule constant --warmup 0 --weight-decay 0 "
          "--betas .9,.999 --clip 1 --log-every 400 --threads 1").split()


def write_task(out):
    """Writes config.json, x.csv and y.csv; returns the targets."""
    angles = [3 * math.pi * row / (ROWS - 1) for row in range(ROWS)]
    target = [math.sin(2 * angle) for angle in angles]
    (out / "config.json").write_text(json.dumps(CONFIG, indent=1))
    (out / "x.csv").write_text("".join(f"{math.sin(a):.9g},{math.cos(a):.9g}\n" for a in angles))
    (out / "y.csv").write_text("".join(f"{y:.9g}\n" for y in target))
    return target


def train(carousel, out, seed, target):
    """Trains one seed; returns the MSE of the model it leaves."""
    run = out / f"seed-{seed}"
    subprocess.run([carousel, "train", "--model", out / "config.json", "--data", out / "x.csv", "--target",
                    out / "y.csv", "--out", run, "--seed", str(seed), *RECIPE], check=True, stderr=subprocess.DEVNULL)
    answer = out / f"seed-{seed}.csv"
    subprocess.run([carousel, "predict", run / "step-400", "--input", out / "x.csv", "--output", answer], check=True)
    with open(answer, encoding="utf-8") as file:
        predicted = [float(row[0]) for row in csv.reader(file)]
    assert len(predicted) == ROWS, f"{answer}: {len(predicted)} rows, expected {ROWS}"
    return sum((p - y) ** 2 for p, y in zip(predicted, target)) / ROWS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carousel", default="build/release/carousel", help="the binary")
    parser.add_argument("--out", type=pathlib.Path, help="an empty folder for the runs (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or pathlib.Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        target = write_task(out)
        good = 0
        for seed in range(SEEDS):
            error = train(options.carousel, out, seed, target)
            good += error <= BOUND
            print(f"seed {seed}: MSE {error:.3g}", flush=True)
    print(f"{good} of {SEEDS} seeds at most {BOUND:g}, expected {NEEDED}")
    return 0 if good >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
