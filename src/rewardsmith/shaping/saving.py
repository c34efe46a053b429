"""The state of a reward in the checkpoints of a trainer: running statistics go on where a run was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from transformers import TrainerCallback


class Stateful(Protocol):
    """A reward with a state to save, such as a `ShapedReward`."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def save_reward_state(reward: Stateful) -> TrainerCallback:
    """A callback that writes a reward's state into each checkpoint (`reward_state.json`) and reads it on resuming.

    In a distributed run each process has statistics of its own part of the batches; the main process's are saved.
    """
    from transformers import TrainerCallback

    class SaveRewardState(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                file = self.file(args, state)
                file.write_text(json.dumps(reward.state_dict()) + "\n", encoding="utf-8")

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step:
                file = self.file(args, state)
                if not file.is_file():
                    raise ValueError(f"no state of the reward at {file}: the checkpoint was written without it")
                reward.load_state_dict(json.loads(file.read_text(encoding="utf-8")))

        @staticmethod
        def file(args: Any, state: Any) -> Path:
            return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "reward_state.json"

    return SaveRewardState()
