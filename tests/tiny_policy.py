"""A causal language model of 16 dimensions that trainers can run a few steps of."""

from __future__ import annotations

WORDS = ["the", "a", "dog", "cat", "runs", "sits", "on", "mat", "sun", "blue", "green", "tree", "house", "seven"]


def tiny_policy(chat: bool):
    """A Llama of 16 dimensions and a tokenizer of 20 words, both made here."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    specials = ["<pad>", "<eos>", "<unk>", "user", "assistant"]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(specials + WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    if chat:
        tokenizer.chat_template = (
            "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}"
            "{% if add_generation_prompt %}assistant {% endif %}"
        )
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(specials + WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config), tokenizer
