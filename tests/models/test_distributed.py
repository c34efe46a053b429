"""Two processes on the CPU against one process with the same steps.

Started by torchrun, which is what `accelerate launch` starts: `accelerate launch --cpu` without MPI makes one process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from test_trainer import rows
from tiny import tiny_llama

from rewardsmith.models import train

HERE = Path(__file__).parent
SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from test_trainer import rows
from tiny import tiny_llama
from rewardsmith.models import train

options = {"learning_rate": 1e-3, "epochs": 2, "batch_size": 4, "save_steps": 10, "eval_data": rows(10, 1)}
result = train(rows(61), tiny_llama(), output_dir=sys.argv[1], **options)
print("main" if result.is_main_process else "further", len(result.history))
"""


def test_two_processes_take_the_steps_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path / "two")],
        env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("main") == done.stdout.count("further") == 1
    train(rows(61), tiny_llama(), output_dir=tmp_path / "one", epochs=2, batch_size=8, learning_rate=1e-3)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    name = "model.layers.0.self_attn.q_proj.weight"
    moved = (one[name] - tiny_llama().model.state_dict()[name]).abs().max().item()
    assert moved > 1e-3
    torch.testing.assert_close(one[name], two[name], atol=0.03 * moved, rtol=0)
    assert not (tmp_path / "two" / "checkpoints").exists()
