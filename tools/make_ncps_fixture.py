#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/fixtures/regressors/*: tiny Neural Circuit Policies and what the ncps package computes with them.

Each folder is a reference case: config.json (the constructor's arguments), the state dict, and expected.safetensors,
computed in float32: inputs `x` [B, T, I], elapsed times `timespans` [B, T], outputs `y`, the final state `h.0`, and
the wiring's matrices. Rows run one at a time: the package takes elapsed times of one sequence only.

    pip install torch ncps safetensors   # seen with torch 2.2.2, ncps 1.0.1
    python3 tools/make_ncps_fixture.py tests/fixtures/regressors
"""
import json
import pathlib
import sys

import torch
from ncps.torch import LTC, CfC
from ncps.wirings import AutoNCP
from safetensors.torch import save_file

INPUTS, ROWS, STEPS = 3, 2, 12
WIRING = {"type": "AutoNCP", "units": 12, "output_size": 2, "sparsity_level": 0.5, "seed": 77}


def wiring():
    return AutoNCP(WIRING["units"], WIRING["output_size"], WIRING["sparsity_level"], WIRING["seed"])


def make(folder, config, model):
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn((ROWS, STEPS, INPUTS), generator=generator)
    timespans = 0.1 + 1.9 * torch.rand((ROWS, STEPS), generator=generator)
    outputs, states = [], []
    with torch.no_grad():
        for row in range(ROWS):
            y, h = model(x[row : row + 1], timespans=timespans[row : row + 1])
            outputs.append(y)
            states.append(h)
    circuit = getattr(model, "_wiring", None) or model.wiring
    expected = {
        "x": x,
        "timespans": timespans,
        "y": torch.cat(outputs).contiguous(),
        "h.0": torch.cat(states).contiguous(),
        "adjacency": torch.tensor(circuit.adjacency_matrix, dtype=torch.int32),
        "sensory_adjacency": torch.tensor(circuit.sensory_adjacency_matrix, dtype=torch.int32),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    save_file(expected, folder / "expected.safetensors")


def main(out):
    out = pathlib.Path(out)
    torch.manual_seed(3)
    cfc = CfC(INPUTS, wiring(), batch_first=True, mode="default").eval()
    make(out / "ncps-cfc-wired", {"model_type": "cfc", "input_size": INPUTS, "wiring": WIRING, "mode": "default"}, cfc)
    torch.manual_seed(4)
    ltc = LTC(INPUTS, wiring(), batch_first=True).eval()
    make(out / "ncps-ltc-autoncp", {"model_type": "ltc", "input_size": INPUTS, "wiring": WIRING}, ltc)


if __name__ == "__main__":
    main(sys.argv[1])
