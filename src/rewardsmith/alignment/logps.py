"""Log-probabilities of tokens without the (B, T, V) tensor that they come from.

The output layer of a language model is applied to a few positions at a time, forwards and once more backwards, so that
no more than `chunk` x V logits exist at any moment. The same pass gives the log-probabilities under a reference, the
forward KL divergence from it over the whole vocabulary, and the entropy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**27}  # logits at a time, by device: 16 MiB and 512 MiB in float32


class OutputLayer(NamedTuple):
    """How a language model makes logits from a hidden state: cap(scale * (weight @ hidden + bias)).

    Attributes:
        weight: (V, H).
        bias: (V,), or None.
        scale: factor of the logits (Cohere, Granite).
        softcap: c of c * tanh(logits / c) (Gemma 2), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> OutputLayer:
        """The output layer of a Hugging Face causal language model.

        Raises:
            ValueError: where the model has no linear one.
        """
        layer, config = model.get_output_embeddings(), model.config.get_text_config()
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{type(model).__name__} has no linear output layer: load it as a causal language model")
        scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(N, V) from hidden states (N, H), in float32 at least."""
        weight, bias = self.weight.to(hidden.dtype), None if self.bias is None else self.bias.to(hidden.dtype)
        logits = nn.functional.linear(hidden, weight, bias)
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class TokenLogps(NamedTuple):
    """What is known about N or (B, T) tokens.

    Attributes:
        logps: log pi(token | what is before it).
        ref_logps: the same under the reference; None where there is none. No gradient.
        kl: KL(reference || policy) of the next-token distributions, in nats; None where it was not asked for.
        entropy: of the policy's next-token distribution, in nats; None where it was not asked for.
    """

    logps: torch.Tensor
    ref_logps: torch.Tensor | None = None
    kl: torch.Tensor | None = None
    entropy: torch.Tensor | None = None


def token_logps(
    hidden: torch.Tensor,
    output: OutputLayer | torch.Tensor,
    ids: torch.Tensor,
    *,
    ref: tuple[torch.Tensor, OutputLayer | torch.Tensor] | None = None,
    kl: bool = False,
    entropy: bool = False,
    chunk: int | None = None,
) -> TokenLogps:
    """Log-probabilities of N tokens, each under its own next-token distribution.

    Args:
        hidden: (N, H) last hidden states, of the positions before the tokens.
        output: the model's output layer, or its weight (V, H).
        ids: (N,) the tokens.
        ref: hidden states (N, H') and output layer of the reference; it gets no gradient.
        kl: whether to compute KL(reference || policy); needs `ref`.
        entropy: whether to compute the policy's entropy.
        chunk: positions at a time. Default: as many as make `CHUNK_LOGITS`.

    Raises:
        ValueError: for shapes that do not fit, or `kl` without `ref`.
    """
    output = output if isinstance(output, OutputLayer) else OutputLayer(output)
    ref_hidden: Any = None if ref is None else ref[0]
    ref_output: Any = None if ref is None else ref[1]
    if torch.is_tensor(ref_output):
        ref_output = OutputLayer(ref_output)
    if hidden.ndim != 2 or ids.shape != hidden.shape[:1]:
        raise ValueError(f"hidden must be (N, H) and ids (N,), got {tuple(hidden.shape)} and {tuple(ids.shape)}")
    if kl and ref is None:
        raise ValueError("kl needs ref: hidden states and output layer of the reference")
    vocabulary = output.weight.shape[0]
    if ref is not None and (len(ref_hidden), ref_output.weight.shape[0]) != (len(hidden), vocabulary):
        raise ValueError(
            f"the reference has {len(ref_hidden)} positions and {ref_output.weight.shape[0]} tokens in its "
            f"vocabulary, the policy {len(hidden)} and {vocabulary}"
        )
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        hidden = hidden.to(torch.get_autocast_dtype(kind))
        ref_hidden = None if ref_hidden is None else ref_hidden.to(hidden.dtype)
    chunk = chunk or max(CHUNK_LOGITS.get(kind, CHUNK_LOGITS["cuda"]) // vocabulary, 1)
    with torch.autocast(kind, enabled=False):
        logps, ref_logps, divergence, entropies = _Chunked.apply(
            hidden, output.weight, output.bias, ids, output, ref_hidden, ref_output, kl, entropy, chunk
        )
    return TokenLogps(
        logps, ref_logps if ref is not None else None, divergence if kl else None, entropies if entropy else None
    )


def sequence_logps(
    hidden: torch.Tensor,
    output: OutputLayer | torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    *,
    ref: tuple[torch.Tensor, OutputLayer | torch.Tensor] | None = None,
    kl: bool = False,
    entropy: bool = False,
    chunk: int | None = None,
) -> TokenLogps:
    """`token_logps` of the tokens of B sequences that a mask picks; (B, T) each, 0 elsewhere.

    Position t predicts token t here: with `input_ids` and the hidden states of one forward pass, pass
    `hidden[:, :-1]`, `input_ids[:, 1:]` and the mask of `input_ids[:, 1:]`.

    Args:
        hidden: (B, T, H) states that predict `ids`.
        output: see `token_logps`, as what follows `mask`.
        ids: (B, T).
        mask: (B, T) bool, response tokens; nothing is computed for others.
        ref: hidden states (B, T, H') and output layer of the reference.
        kl: as above.
        entropy: as above.
        chunk: as above.
    """
    if hidden.shape[:2] != ids.shape or mask.shape != ids.shape:
        raise ValueError(
            f"hidden must be (B, T, H), ids and mask (B, T), got {tuple(hidden.shape)}, {tuple(ids.shape)} and "
            f"{tuple(mask.shape)}"
        )
    mask = mask.bool()
    flat = token_logps(
        hidden[mask],
        output,
        ids[mask],
        ref=None if ref is None else (ref[0][mask], ref[1]),
        kl=kl,
        entropy=entropy,
        chunk=chunk,
    )
    placed: list[Any] = [None if v is None else v.new_zeros(mask.shape).masked_scatter(mask, v) for v in flat]
    return TokenLogps(*placed)


class _Chunked(torch.autograd.Function):
    """Rows of the logits matrix, a chunk at a time: log-probabilities, KL and entropy forwards, gradients backwards.

    With p = softmax(logits): d logp(y) = onehot(y) - p, d KL(q || p) = p - q, d H(p) = -p (log p + H), all with respect
    to the logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        ids: torch.Tensor,
        output: OutputLayer,
        ref_hidden: torch.Tensor | None,
        ref_output: OutputLayer | None,
        kl: bool,
        entropy: bool,
        chunk: int,
    ) -> tuple[torch.Tensor, ...]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        count = len(hidden)
        logps, norms, ref_logps, ref_norms, divergence, entropies = (
            hidden.new_zeros(count, dtype=wide) for _ in "123456"
        )
        for part in _parts(count, chunk):
            logits = output.logits(hidden[part])
            norm = logits.logsumexp(1)
            norms[part] = norm
            logps[part] = logits.gather(1, ids[part, None]).squeeze(1) - norm
            if entropy:
                entropies[part] = norm - ((logits - norm[:, None]).exp() * logits).sum(1)
            if ref_hidden is None or ref_output is None:
                continue
            ref_logits = ref_output.logits(ref_hidden[part])
            ref_norm = ref_logits.logsumexp(1)
            ref_norms[part] = ref_norm
            ref_logps[part] = ref_logits.gather(1, ids[part, None]).squeeze(1) - ref_norm
            if kl:
                probs = (ref_logits - ref_norm[:, None]).exp()
                gap = (ref_logits - logits).masked_fill_(probs == 0, 0.0)  # 0 log 0 = 0
                divergence[part] = (probs * gap).sum(1) + norm - ref_norm
        ctx.output, ctx.ref_output, ctx.kl, ctx.entropy, ctx.chunk = output, ref_output, kl, entropy, chunk
        ctx.save_for_backward(hidden, weight, bias, ids, norms, ref_hidden if kl else None, ref_norms, entropies)
        ctx.mark_non_differentiable(ref_logps)
        return logps, ref_logps, divergence, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_logps, _, of_kl, of_entropy = gradients
        hidden, weight, bias, ids, norms, ref_hidden, ref_norms, entropies = ctx.saved_tensors
        output = ctx.output._replace(weight=weight, bias=bias)
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        wide = norms.dtype
        to_hidden = torch.zeros_like(hidden) if for_hidden else None
        to_weight = (
            torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) if for_weight else None
        )
        to_bias = None if bias is None or not for_bias else torch.zeros_like(bias, dtype=wide)
        cast = weight.to(hidden.dtype)
        for part in _parts(len(hidden), ctx.chunk):
            logits = output.logits(hidden[part])
            slope = None if output.softcap is None else 1 - (logits / output.softcap).square()
            log_probs = logits.sub_(norms[part, None])
            pull = of_logps[part, None]
            weights = -pull
            if ctx.kl:
                weights = weights + of_kl[part, None]
            if ctx.entropy:
                weights = weights - of_entropy[part, None] * (log_probs + entropies[part, None])
            step = log_probs.exp_().mul_(weights)
            step.scatter_add_(1, ids[part, None], pull)
            if ctx.kl:
                ref_logits = ctx.ref_output.logits(ref_hidden[part]).sub_(ref_norms[part, None])
                step.sub_(ref_logits.exp_().mul_(of_kl[part, None]))
            if slope is not None:
                step.mul_(slope)
            if output.scale != 1:
                step.mul_(output.scale)
            narrow = step.to(hidden.dtype)
            if to_hidden is not None:
                to_hidden[part] = narrow @ cast
            if to_weight is not None:
                to_weight += narrow.T @ hidden[part]
            if to_bias is not None:
                to_bias += step.sum(0)
        return (
            to_hidden,
            None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None else to_bias.to(bias.dtype),
            *[None] * 7,
        )


def _parts(count: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, count)) for start in range(0, count, chunk)]
