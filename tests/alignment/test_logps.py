"""Chunked log-probabilities equal the dense ones, in values and gradients, and never hold a (B, T, V) tensor."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rewardsmith.alignment.logps import OutputLayer, sequence_logps, token_logps

N, H, V = 23, 8, 50


def setup(dtype=torch.double, *, bias=False, scale=1.0, softcap=None, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    hidden, ref_hidden = draw(N, H).requires_grad_(), draw(N, H + 1)
    weight, vector = draw(V, H).requires_grad_(), draw(V).requires_grad_() if bias else None
    output = OutputLayer(weight, vector, scale, softcap)
    reference = OutputLayer(draw(V, H + 1), None, scale, softcap)
    ids = torch.randint(V, (N,), generator=generator)
    return hidden, output, ids, (ref_hidden, reference)


def dense(hidden, output, ids, ref):
    policy, reference = (o.logits(h).log_softmax(1) for h, o in ((hidden, output), ref))
    logps, ref_logps = (p.gather(1, ids[:, None])[:, 0] for p in (policy, reference))
    kl = (reference.exp() * (reference - policy)).sum(1)
    return logps, ref_logps, kl, -(policy.exp() * policy).sum(1)


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"scale": 0.3}, {"softcap": 2.0, "scale": 1.5, "bias": True}])
def test_values_and_gradients_equal_the_dense_ones(options, chunk):
    hidden, output, ids, ref = setup(**options)
    leaves = [leaf for leaf in (hidden, output.weight, output.bias) if leaf is not None]
    found = token_logps(hidden, output, ids, ref=ref, kl=True, entropy=True, chunk=chunk)
    wanted = dense(hidden, output, ids, ref)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    pull = [torch.randn(N, dtype=torch.double, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    total = sum((value * weight).sum() for value, weight in zip((found.logps, found.kl, found.entropy), pull))
    expected = sum((value * weight).sum() for value, weight in zip((wanted[0], wanted[2], wanted[3]), pull))
    for a, b in zip(torch.autograd.grad(total, leaves), torch.autograd.grad(expected, leaves)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_gradients_in_single_precision_equal_the_dense_ones_to_1e_5():
    hidden, output, ids, ref = setup(torch.float32)
    found, wanted = token_logps(hidden, output, ids, ref=ref, kl=True, chunk=5), dense(hidden, output, ids, ref)
    leaves = (hidden, output.weight)
    for a, b in zip(
        torch.autograd.grad((found.logps - found.kl).mean(), leaves),
        torch.autograd.grad((wanted[0] - wanted[2]).mean(), leaves),
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_reference_gets_no_gradient_and_without_one_there_is_none():
    hidden, output, ids, (ref_hidden, reference) = setup()
    ref_hidden.requires_grad_()
    found = token_logps(hidden, output, ids, ref=(ref_hidden, reference), kl=True)
    (found.kl.sum() + found.logps.sum()).backward()
    assert ref_hidden.grad is None and not found.ref_logps.requires_grad
    alone = token_logps(hidden, output, ids)
    assert alone.ref_logps is None and alone.kl is None and alone.entropy is None
    assert torch.equal(alone.logps, found.logps)
    with pytest.raises(ValueError, match="kl needs ref"):
        token_logps(hidden, output, ids, kl=True)
    with pytest.raises(ValueError, match="reference has 22 positions"):
        token_logps(hidden, output, ids, ref=(ref_hidden[1:], reference))


def test_a_policy_that_is_its_reference_has_no_divergence():
    hidden, output, ids, _ = setup(torch.float32)
    found = token_logps(hidden, output, ids, ref=(hidden, output), kl=True, chunk=3)
    assert found.kl.abs().max() == 0 and torch.equal(found.logps, found.ref_logps)


def test_divergence_does_not_change_with_a_constant_added_to_all_logits():
    hidden, output, ids, ref = setup()
    shifted = output._replace(bias=torch.full((V,), 3.7, dtype=torch.double))
    a, b = (token_logps(hidden, o, ids, ref=ref, kl=True).kl for o in (output, shifted))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_tokens_that_the_reference_holds_impossible_count_nothing():
    hidden, output, ids, (ref_hidden, reference) = setup()
    barred = reference._replace(bias=torch.zeros(V, dtype=torch.double).index_fill(0, torch.tensor([3]), -torch.inf))
    kl = token_logps(hidden, output, ids, ref=(ref_hidden, barred), kl=True).kl
    assert kl.isfinite().all() and (kl > 0).all()


def test_only_masked_positions_are_computed_and_others_are_zero():
    hidden, output, ids, ref = setup()
    shape = (2, 11)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[0, 2:5] = mask[1, 7] = True
    h, r, i = hidden[:22].view(*shape, H), ref[0][:22].view(*shape, H + 1), ids[:22].view(shape)
    found = sequence_logps(h, output, i, mask, ref=(r, ref[1]), kl=True)
    whole = token_logps(hidden[:22], output, ids[:22], ref=(ref[0][:22], ref[1]), kl=True)
    for a, b in zip(found[:3], whole[:3]):
        torch.testing.assert_close(a, b.view(shape) * mask)
    gradient = torch.autograd.grad(found.kl.sum() + found.logps.sum(), hidden)[0][:22].view(*shape, H)
    assert (gradient.abs().sum(-1) > 0).equal(mask)
    with pytest.raises(ValueError, match="mask"):
        sequence_logps(h, output, i, mask[:1])


class Largest(TorchDispatchMode):
    """The largest number of elements in any tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if torch.is_tensor(leaf)]
        self.elements = max([self.elements, *sizes])
        return out


def test_no_tensor_as_large_as_all_logits_is_made_forwards_or_backwards():
    batch, length, width, words, chunk = 4, 64, 4, 1000, 8
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(batch, length, width, generator=generator, requires_grad=True)
    weight = torch.randn(words, width, generator=generator, requires_grad=True)
    ids = torch.randint(words, (batch, length), generator=generator)
    mask = torch.ones_like(ids).bool()
    with Largest() as seen:
        found = sequence_logps(
            hidden, weight, ids, mask, ref=(hidden.detach(), weight.detach() + 0.1), kl=True, entropy=True, chunk=chunk
        )
        (found.logps - found.kl + found.entropy).sum().backward()
    assert chunk * words <= seen.elements < batch * length * words / 8
    with Largest() as whole:
        torch.log_softmax(hidden @ weight.T, -1).sum().backward()
    assert whole.elements >= batch * length * words


def test_autocast_computes_in_half_precision_and_returns_single():
    hidden, output, ids, ref = setup(torch.float32)
    wanted = token_logps(hidden, output, ids, ref=ref, kl=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logps(hidden, output, ids, ref=ref, kl=True)
    assert found.logps.dtype == torch.float32
    torch.testing.assert_close(found.logps, wanted.logps, rtol=0, atol=0.2)
    assert not torch.equal(found.logps, wanted.logps)
    found.logps.sum().backward()
    assert output.weight.grad.dtype == torch.float32 and output.weight.grad.isfinite().all()
