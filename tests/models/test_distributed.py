"""Two processes on the CPU against one process with the same steps: whole copies of the model (DDP), and shards (FSDP).

DDP is started by torchrun, which is what `accelerate launch` starts: `accelerate launch --cpu` without MPI makes one
process. FSDP is started by `accelerate launch --use_fsdp`. Accelerate shards on accelerators alone, so the script tells
it that these processes have one; everything after that, gloo and torch's FSDP on the CPU, is the real thing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_trainer import rows
from tiny import tiny_llama
from transformers import AutoModelForSequenceClassification

from rewardsmith.models import load_model, train

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


SHARDED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from accelerate.state import DistributedType, PartialState
from test_trainer import rows
from tiny import tiny_llama
from torch.distributed import fsdp
from torch.distributed.fsdp import FullyShardedDataParallel
from rewardsmith.models import train
from rewardsmith.models.engine import ExampleTrainer

start = PartialState.__init__
def with_accelerators(self, *args, **options):
    start(self, *args, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU
PartialState.__init__ = with_accelerators

# FSDP 1 alone: accelerate would give the CPU a number, and a CPU cannot be offloaded to itself.
shard, config = FullyShardedDataParallel.__init__, fsdp.FullStateDictConfig
def on_the_cpu(self, *args, device_id=None, **options):
    shard(self, *args, device_id=torch.device("cpu"), **options)
FullyShardedDataParallel.__init__ = on_the_cpu
fsdp.FullStateDictConfig = lambda offload_to_cpu, rank0_only: config(offload_to_cpu=False, rank0_only=rank0_only)

out, lora = Path(sys.argv[1]), sys.argv[2] == "lora"

def refused(wanted, model, **options):
    nowhere = out.with_name("refused")
    try:
        train(rows(61), model, output_dir=nowhere, **options)
    except ValueError as error:
        assert wanted in str(error), error
        assert not nowhere.exists()
    else:
        raise AssertionError(wanted)

refused("save_steps", tiny_llama(), save_steps=4)
model = tiny_llama()
model.requires_grad_(False)
refused("frozen", model)

gather = ExampleTrainer.gather_into
def look(self, network):
    if hasattr(self.model_wrapped, "reshard"):  # the root stays whole after a pass without a backward one
        self.model_wrapped.reshard()
    local = [p.to_local() if hasattr(p, "to_local") else p for p in self.model_wrapped.parameters()]
    share = sum(p.numel() for p in local) / sum(p.numel() for p in network.parameters())
    out.with_name(f"share-{PartialState().process_index}").write_text(str(share))
    gather(self, network)
ExampleTrainer.gather_into = look

result = train(
    rows(61), tiny_llama(), output_dir=out, learning_rate=1e-3, epochs=2, batch_size=4, lora=lora, eval_data=rows(10, 1)
)
if result.is_main_process:
    texts = [[row[name] for row in rows(40, 1)] for name in ("prompt", "chosen")]
    print("scores", *result.model(*texts))
    print("held out", result.history[-1]["eval_loss"])
else:
    assert all(p.is_meta for p in result.model.network.parameters())
"""


def printed(output: str, word: str) -> list[list[float]]:
    return [
        [float(x) for x in line.removeprefix(word).split()] for line in output.splitlines() if line.startswith(word)
    ]


@pytest.mark.parametrize(("version", "lora"), [(1, False), (2, False), (2, True)], ids=["fsdp1", "fsdp2", "fsdp2-lora"])
def test_shards_are_gathered_into_the_ordinary_model(tmp_path, version, lora):
    script = tmp_path / "script.py"
    script.write_text(SHARDED, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    launch = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", str(version)),
        *("--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--num_processes", "2", "--num_machines", "1"),
        *("--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--fsdp_sync_module_states", "false", "--fsdp_cpu_ram_efficient_loading", "false"),  # neither is for a CPU
    ]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path / "two"), "lora" if lora else "full"],
        env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    shares = [float((tmp_path / f"share-{process}").read_text()) for process in range(2)]
    assert all(share < 0.6 for share in shares)  # each process holds about half

    options = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "lora": lora, "eval_data": rows(10, 1)}
    single = train(rows(61), tiny_llama(), output_dir=tmp_path / "one", **options)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-4, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    start = tiny_llama().model.state_dict()
    assert max((one[name] - start[name]).abs().max().item() for name in one) > 1e-3
    assert printed(done.stdout, "held out")[0][0] == pytest.approx(single.history[-1]["eval_loss"], abs=1e-3)

    texts = [[row[name] for row in rows(40, 1)] for name in ("prompt", "chosen")]
    (scores,) = printed(done.stdout, "scores")
    np.testing.assert_allclose(load_model(tmp_path / "two")(*texts), scores, atol=1e-4)
    plain, loading = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    items = tiny_llama().encode(*texts).items
    with torch.no_grad():
        logits = [plain(input_ids=torch.tensor([list(item.ids)])).logits.item() for item in items]
    np.testing.assert_allclose(logits, scores, atol=1e-4)
