"""A run that is killed and resumed ends in the weights of a run that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import rows

from rewardsmith.models import load_model, train

HERE = Path(__file__).parent
SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from test_trainer import rows
from tiny import tiny_llama
from transformers import TrainerCallback
import rewardsmith.models.trainer as trainer

kind, out, resume, pause = sys.argv[1], sys.argv[2], sys.argv[3] == "resume", float(sys.argv[4])

class Slow(trainer.Progress):
    def on_step_end(self, *args, **kwargs):
        import time
        time.sleep(pause)  # so that the kill comes before the end
        super().on_step_end(*args, **kwargs)

trainer.Progress = Slow
model = "hashed" if kind == "hashed" else tiny_llama(DROPOUT)
options = {} if kind == "hashed" else {"learning_rate": 1e-3}
trainer.train(rows(60), model, output_dir=out, epochs=3, batch_size=4, save_steps=5, resume=resume, **options)
"""


def run(kind: str, out: Path, resume: bool, pause: float = 0.0, wait: bool = True) -> subprocess.Popen:
    script = SCRIPT.replace("tiny_llama(DROPOUT)", "tiny_llama()")
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script, kind, str(out), "resume" if resume else "fresh", str(pause)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if wait:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    return process


@pytest.mark.parametrize(("kind", "file"), [("hashed", "hashed.safetensors"), ("llama", "model.safetensors")])
def test_killed_and_resumed_equals_never_killed(tmp_path, kind, file):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(kind, whole, resume=False)
    process = run(kind, broken, resume=False, pause=0.1, wait=False)
    deadline = time.monotonic() + 90
    while not list(broken.glob("checkpoints/checkpoint-15/trainer_state.json")):
        assert time.monotonic() < deadline and process.poll() is None, "no checkpoint was written"
        time.sleep(0.02)
    time.sleep(0.15)  # into the steps after the checkpoint
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (broken / file).exists()
    with pytest.raises(ValueError, match="no model"):
        load_model(broken)
    run(kind, broken, resume=True)
    a, b = load_file(whole / file), load_file(broken / file)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def interrupted(out: Path, steps: int, **options) -> None:
    """Train and stop by an exception after so many steps."""
    import rewardsmith.models.trainer as module

    class Stop(module.Progress):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == steps:
                raise KeyboardInterrupt

    original = module.Progress
    module.Progress = Stop
    try:
        with pytest.raises(KeyboardInterrupt):
            train(rows(40), "hashed", output_dir=out, batch_size=4, save_steps=4, **options)
    finally:
        module.Progress = original


def test_a_checkpoint_cut_short_is_passed_over(tmp_path):
    out = tmp_path / "m"
    interrupted(out, 10)
    newest = out / "checkpoints" / "checkpoint-8"
    (newest / "trainer_state.json").write_text('{"epoch": 0.')  # as a kill in the middle of writing leaves it
    resumed = train(rows(40), "hashed", output_dir=out, batch_size=4, save_steps=4, resume=True)
    fresh = train(rows(40), "hashed", batch_size=4)
    assert resumed.model.fingerprint() == fresh.model.fingerprint()


@pytest.mark.parametrize(
    ("change", "named"), [({"seed": 5}, "seed"), ({"learning_rate": 1.0}, "learning_rate"), ({"rows": 39}, "data")]
)
def test_another_run_does_not_resume_from_these_checkpoints(tmp_path, change, named):
    out = tmp_path / "m"
    interrupted(out, 6)
    count = change.pop("rows", 40)
    data = rows(40)
    data[0]["chosen"] += " more" if count == 39 else ""
    with pytest.raises(ValueError, match=f"cannot resume.*{named} was"):
        train(data, "hashed", output_dir=out, batch_size=4, save_steps=4, resume=True, **change)
    assert json.loads((out / "checkpoints" / "options.json").read_text())["seed"] == 0


def test_without_a_checkpoint_resume_starts_at_the_beginning(tmp_path):
    resumed = train(rows(40), "hashed", output_dir=tmp_path / "m", resume=True)
    assert resumed.model.fingerprint() == train(rows(40), "hashed").model.fingerprint()


def test_a_finished_run_resumes_to_itself(tmp_path):
    out = tmp_path / "m"
    first = train(rows(40), "hashed", output_dir=out, save_steps=4)
    again = train(rows(40), "hashed", output_dir=out, save_steps=4, resume=True)
    assert again.model.fingerprint() == first.model.fingerprint()
    assert again.history == first.history and again.seconds == first.seconds


def test_resume_needs_a_folder():
    with pytest.raises(ValueError, match="output_dir"):
        train(rows(4), "hashed", resume=True)
