"""The trunk: what a prefix is to the tokens after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from embodied.networks.transformer import Transformer


def masked(trunk: Transformer, prefix: Tensor, x: Tensor) -> Tensor:
    """One pass over prefix and tokens, in which a mask hides the tokens from the prefix."""
    tokens, size = torch.cat([prefix, x], dim=1), prefix.shape[1]
    mask = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool)
    mask[:size, size:] = False
    for block in trunk.blocks:
        q, k, v = block.attention.heads(block.attention_norm(tokens))
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        tokens = tokens + block.attention.out(seen.transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.mlp_norm(tokens))
    out: Tensor = trunk.norm(tokens)[:, size:]
    return out


@pytest.mark.parametrize("lengths", [(2, 1), (3, 4), (1, 40)])
def test_a_remembered_prefix_is_one_that_does_not_see_the_tokens(lengths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    trunk = Transformer(16, num_layers=3, num_heads=2)
    prefix, x = torch.randn(5, lengths[0], 16), torch.randn(5, lengths[1], 16)
    with torch.no_grad():
        for parameter in trunk.parameters():  # the small initial weights would hide a mistake
            parameter.mul_(5)
        found = trunk(x, trunk.remember(prefix))
        torch.testing.assert_close(found, masked(trunk, prefix, x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, trunk(x), atol=1e-2)


@pytest.mark.parametrize("length", [1, 5, 40])
def test_a_causal_token_sees_the_prefix_and_those_before_it(length: int) -> None:
    torch.manual_seed(0)
    trunk = Transformer(16, num_layers=3, num_heads=2)
    prefix, x = torch.randn(4, 3, 16), torch.randn(4, length, 16)
    with torch.no_grad():
        memories = trunk.remember(prefix)
        found = trunk(x, memories, causal=True)
        one_by_one, grown = [], memories  # a token that is alone cannot see those after it
        for token in x.split(1, dim=1):
            out, grown = trunk.extend(token, grown)
            one_by_one.append(out)
        torch.testing.assert_close(found, torch.cat(one_by_one, 1), rtol=1e-4, atol=1e-5)
        assert grown[0][0].shape[2] == 3 + length
        changed = x.clone()
        changed[:, -1] *= -1
        other = trunk(changed, memories, causal=True)
    torch.testing.assert_close(other[:, :-1], found[:, :-1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other[:, -1], found[:, -1], atol=1e-2)


def test_every_parameter_is_trained() -> None:
    trunk = Transformer(16, num_layers=2, num_heads=2)
    trunk(torch.randn(3, 1, 16), trunk.remember(torch.randn(3, 2, 16))).sum().backward()
    assert [name for name, p in trunk.named_parameters() if p.grad is None] == []


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 16 and 3"):
        Transformer(16, num_heads=3)
