#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the event file of a run with its log.jsonl, reading the events with the tensorboard package.

Usage: check_events.py OUT     (pip install tensorboard)
"""

import json
import os
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def as_float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def logged(folder):
    """Name -> [(step, value)] of log.jsonl."""
    series = {}
    with open(os.path.join(folder, "log.jsonl")) as lines:
        for line in lines:
            fields = json.loads(line)
            step = fields.pop("step")
            for name, value in fields.items():
                if isinstance(value, (int, float)):
                    series.setdefault(name, []).append((step, as_float32(value)))
    return series


def shown(folder):
    """Name -> [(step, value)] as TensorBoard shows them."""
    events = EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def main():
    folder = sys.argv[1]
    wanted, got = logged(folder), shown(folder)
    for name in sorted(set(wanted) | set(got)):
        if wanted.get(name) != got.get(name):
            sys.exit(f"{folder}: {name}: {len(got.get(name, []))} events, expected the {len(wanted.get(name, []))} values of log.jsonl")
    print(f"{folder}: {sum(map(len, got.values()))} values of {len(got)} names agree")


if __name__ == "__main__":
    main()
