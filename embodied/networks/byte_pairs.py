"""Byte-pair merges of integer symbols, for whole batches at once.

Sennrich et al. 2016, arXiv:1508.07909, Algorithm 1, over an alphabet of numbers. The merges are a
buffer, so that they travel with the weights and need no file of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

_MOST_SYMBOLS = 2**18
"""That merges are learned from: each merge looks at all of them."""

_BREAK = -2
"""Between sequences that are laid end to end."""


class BytePairs(nn.Module):
    """Sequences of `length` symbols <-> shorter ones of tokens.

    The first `alphabet` tokens are the symbols themselves. Before `fit` there are no others.

    Attributes:
        merges: (vocabulary - alphabet, 2) pair of tokens that each further token stands for, in
            the order learned; -1 where none was.
        num_symbols: (vocabulary,) that each token stands for; more than `length` where the token
            does not exist.

    Args:
        alphabet: number of symbols, which are 0, 1, ...
        vocabulary: number of tokens at most.
        length: of all symbol sequences.
    """

    merges: Tensor
    num_symbols: Tensor
    _rank: Tensor
    _spelling: Tensor

    def __init__(self, *, alphabet: int, vocabulary: int, length: int) -> None:
        super().__init__()
        if vocabulary < alphabet:
            raise ValueError(
                f"vocabulary must hold the {alphabet} symbols of the alphabet, got {vocabulary}"
            )
        self.alphabet, self.vocabulary, self.length = alphabet, vocabulary, length
        self.register_buffer("merges", torch.full((vocabulary - alphabet, 2), -1))
        # What follows from the merges. A pair's rank is its token's number, or `vocabulary` where
        # it has none; the last row and column are those of padding.
        sizes = {"num_symbols": (vocabulary,), "_spelling": (vocabulary, length)}
        for name, size in {**sizes, "_rank": (vocabulary + 1, vocabulary + 1)}.items():
            empty = torch.zeros(size, dtype=torch.int32)
            self.register_buffer(name, empty, persistent=False)
        self._derive()

    def fit(self, symbols: Tensor) -> None:
        """Learns merges from sequences (N, length): each time of the pair that is met most often,
        the smallest of equals, until no pair is met twice or the vocabulary is full."""
        every = max(1, symbols.numel() // _MOST_SYMBOLS)
        pairs = learn_merges(symbols[::every].cpu(), self.alphabet, len(self.merges))
        self.merges.fill_(-1)
        self.merges[: len(pairs)] = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
        self._derive()

    def encode(self, symbols: Tensor) -> Tensor:
        """Symbols (B, length) -> tokens (B, length), padded with -1 at the end.

        In each row the earliest learned of the merges that apply is done first, wherever it
        applies, from left to right; then the next.
        """
        tokens, none = symbols, self.vocabulary
        for _ in range(self.length - 1):
            rank = self._rank[tokens[:, :-1], tokens[:, 1:]]  # -1 is the table's last row, too
            first = rank.amin(1, keepdim=True)
            # A GPU is not asked whether all rows are done: it would have to wait for the answer.
            if tokens.device.type == "cpu" and bool((first == none).all()):
                break
            tokens = merge(tokens, (rank == first) & (first < none), first)
        return tokens

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T), -1 for none -> symbols (B, length).

        What is missing at the end is -1; what is too much is cut off.
        """
        spelling = self._spelling[tokens.clamp(min=0)].masked_fill(tokens[..., None] < 0, -1)
        letters = spelling.flatten(1)
        return compact(letters, letters >= 0, self.length).long()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._derive()

    def _derive(self) -> None:
        """The tables that follow from the merges."""
        words: list[list[int]] = [[symbol] for symbol in range(self.alphabet)]
        rank = torch.full(self._rank.shape, self.vocabulary)
        for a, b in self.merges.tolist():
            if a < 0:
                break
            rank[a, b] = len(words)
            words.append(words[a] + words[b])
        spelling = torch.full(self._spelling.shape, -1)
        num_symbols = torch.full(self.num_symbols.shape, self.length + 1)
        for token, word in enumerate(words):
            spelling[token, : len(word)] = torch.tensor(word)
            num_symbols[token] = len(word)
        self._rank.copy_(rank)
        self._spelling.copy_(spelling)
        self.num_symbols.copy_(num_symbols)


def learn_merges(symbols: Tensor, alphabet: int, most: int) -> list[tuple[int, int]]:
    """The pairs of tokens that are merged, at most so many, the n-th into token `alphabet + n`."""
    pairs: list[tuple[int, int]] = []
    text = F.pad(symbols, (0, 1), value=_BREAK).flatten()[None]  # one row, without padding
    for token in range(alphabet, alphabet + most):
        left, right = text[:, :-1], text[:, 1:]
        codes: NDArray[np.int64] = (left * token + right)[(left >= 0) & (right >= 0)].numpy()
        counts = np.bincount(codes, minlength=1)
        code = int(counts.argmax())
        if counts[code] < 2:
            break
        pairs.append(divmod(code, token))
        hit = (left == pairs[-1][0]) & (right == pairs[-1][1])
        text = merge(text, hit, torch.tensor(token))
        text = text[:, : int((text != -1).sum())]
    return pairs


def merge(tokens: Tensor, hit: Tensor, by: Tensor) -> Tensor:
    """Puts one token in the place of each pair, from left to right where pairs overlap.

    Args:
        tokens: (B, T), padded with -1.
        hit: (B, T - 1) bool, where such a pair begins.
        by: what is put there; broadcasts to (B, T).
    """
    place = torch.arange(hit.shape[1], device=hit.device).expand_as(hit)
    # In a run of hits (a a a ...) every other one counts, from the run's first.
    before = torch.where(hit, -1, place).cummax(1).values  # the last miss
    hit = hit & ((place - before) % 2 == 1)
    no = torch.zeros_like(hit[:, :1])
    merged = torch.where(torch.cat([hit, no], 1), by, tokens)
    return compact(merged, ~torch.cat([no, hit], 1), tokens.shape[1])


def compact(x: Tensor, keep: Tensor, length: int) -> Tensor:
    """What is kept of each row of x (B, T), in order, cut or padded with -1 to (B, length)."""
    place = torch.where(keep, keep.cumsum(1) - 1, length).clamp(max=length)
    out = x.new_full((len(x), length + 1), -1)
    return out.scatter(1, place, x)[:, :length]
