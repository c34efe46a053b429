"""GRPO with TRL against a sum of rewards; one of them may hang, so it has a deadline.

    python examples/trl_grpo.py --model Qwen/Qwen3-0.6B --steps 100

Without a model id, a policy of 16 dimensions is made on the spot: that shows the wiring in seconds, without a network.
"""

import argparse
import re

from rewardsmith import from_function
from rewardsmith.reward import linear_schedule

PROMPTS = [(f"What is {a} + {b}?", str(a + b)) for a in range(2, 6) for b in range(3, 7)]


def correct(completion: str, answer: str) -> float:
    """1 where the last number of the completion is the answer; `answer` is a column of the data set."""
    numbers = re.findall(r"-?\d+", completion)
    return float(bool(numbers) and numbers[-1] == answer)


def brief(completions: list[str]) -> list[float]:
    """The other shape: a whole batch, as TRL writes it."""
    return [-len(completion.split()) / 20 for completion in completions]


def tiny():
    """A random policy and its tokenizer, one token per character."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<eos>", "<unk>", *" 0123456789+?Whatis"]
    characters = Tokenizer(models.WordLevel({c: i for i, c in enumerate(dict.fromkeys(vocabulary))}, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, bos_token_id=1, **size)
    return LlamaForCausalLM(config), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a causal language model, by id or path")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", default="trl-grpo-out")
    options = parser.parse_args()

    # Imported here, so that the worker process, which imports this file for `correct`, starts quickly.
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = (options.model, None) if options.model else tiny()

    safe = from_function(correct).with_deadline(seconds=5)  # in a process of its own, killed after 5 s
    reward = safe + linear_schedule(0.0, 0.5, steps=50) * from_function(brief)
    config = GRPOConfig(
        output_dir=options.out,
        max_steps=options.steps,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=32,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=bool(options.model),
    )
    data = Dataset.from_list([{"prompt": prompt, "answer": answer} for prompt, answer in PROMPTS])
    trainer = GRPOTrainer(
        model=model, processing_class=tokenizer, reward_funcs=reward.named("sum"), args=config, train_dataset=data
    )
    with safe:
        trainer.train()
    for row in trainer.state.log_history:
        if "reward" in row:
            print({name: round(row[name], 3) for name in ("reward", "sum/correct", "sum/brief", "sum/failed")})


if __name__ == "__main__":
    main()
