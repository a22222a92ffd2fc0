"""Exact nearest-neighbour search over vectors: a pass over int8 copies with a proven bound, then float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]

# 7 bits: on CPUs without VNNI, the sum of two products of 8-bit numbers may not fit its 16-bit register.
LEVELS = 63
# Rows whose int8 copies fit a CPU core's cache, so that a query's second key need not read memory again.
CACHED_ROWS = 2_048
# Applied to norms computed in float32; far above their rounding error.
MARGIN = np.float32(1.001)
SMALLEST = np.finfo(np.float32).tiny
# Error of a few float32 operations, relative to the size of their terms: 16 roundings.
FLOAT32_ERROR = 8 * float(np.finfo(np.float32).eps)


class Centres:
    """Numbered rows of vectors, searched for the nearest to a query.

    An int8 copy of a row is x̂ = s·q, with the rest ρ = x - x̂. For a query ŷ with the rest η,

        |x·y - x̂·ŷ| = |x̂·η + ρ·y| <= ‖x̂‖‖η‖ + ‖ρ‖‖y‖,

    so a row that is farther away than another by more than their bounds cannot be the nearest. x̂·ŷ is a sum of
    integers and therefore exact. It reads a quarter of the memory, and memory bandwidth limits a search over many rows.
    The little work that remains is done in numpy, which starts it sooner than torch and wakes no threads. A step of the
    model has evicted most code from the CPU's caches, so the code calls few distinct functions, and the same ones
    again.
    """

    def __init__(self, dimension: int) -> None:
        self._rows: Floats = np.empty((16, dimension), np.float32)  # a row for each number, then spare ones
        self._copies: NDArray[np.int8] = np.empty((16, dimension), np.int8)
        self._scales: Floats = np.empty(16, np.float32)
        self._squares: Floats = np.empty(16, np.float32)  # ‖x‖²
        self._rests: Floats = np.empty(16, np.float32)  # ‖ρ‖
        self._numbers: list[int] = []  # of the rows
        self._row: dict[int, int] = {}
        # Greatest ‖x̂‖ + ‖ρ‖ of any row so far. It never shrinks: that can cost time, but not correctness.
        self._largest = 0.0

    def put(self, numbers: Sequence[int], vectors: Tensor) -> None:
        """Add vectors (len(numbers), d), or replace those with the same numbers."""
        for number in numbers:
            if number not in self._row:
                self._row[number] = len(self._numbers)
                self._numbers.append(number)
        rows = [self._row[number] for number in numbers]
        self._reserve(len(self._numbers))
        for start in range(0, len(rows), CACHED_ROWS):  # in chunks, so that loading many takes little more memory
            some, part = rows[start : start + CACHED_ROWS], vectors[start : start + CACHED_ROWS].numpy()
            copies, scales, lengths, rests = _rounded(part)
            self._rows[some], self._copies[some], self._scales[some], self._rests[some] = part, copies, scales, rests
            self._squares[some] = np.einsum("nd,nd->n", part, part, dtype=np.float64)
            self._largest = max(self._largest, float((lengths + rests).max()))

    def drop(self, number: int) -> None:
        """Remove a vector and move the last row into its place."""
        row, last = self._row.pop(number), len(self._numbers) - 1
        moved = self._numbers.pop()
        if row != last:
            for column in (self._rows, self._copies, self._scales, self._squares, self._rests):
                column[row] = column[last]
            self._numbers[row], self._row[moved] = moved, row

    def nearest(self, keys: Tensor) -> tuple[float, list[tuple[int, int]]] | None:
        """Return the least distance of a vector to any of the keys (k, d); None without vectors.

        With it come number and key of each pair at exactly this distance, in no order that means anything.
        """
        if not self._numbers:
            return None
        queries = keys.numpy()
        which, rows = self._close(queries)
        away = _distances(self._rows[rows], queries[which])
        least = away.min()
        return float(least), [(self._numbers[rows[j]], int(which[j])) for j in np.nonzero(away == least)[0]]

    def within(self, keys: Tensor, radius: float) -> list[tuple[float, int, int]]:
        """Return distance, number and key of every vector within the radius of any of the keys (k, d), in no order."""
        if not self._numbers:
            return []
        queries = keys.numpy()
        rough, bounds, _, own, common = self._rough(queries)
        which, rows = np.nonzero(rough - bounds <= (radius**2 - own + common)[:, None])
        away = _distances(self._rows[rows], queries[which])
        inside = np.nonzero(away <= radius)[0].tolist()
        return [(float(away[j]), self._numbers[rows[j]], int(which[j])) for j in inside]

    def _close(self, keys: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return keys and rows of the few pairs that can be the nearest; the nearest is always among them."""
        rough, bounds, least, own, common = self._rough(keys)
        rough -= bounds
        which, close = np.nonzero(rough <= (least - own + common)[:, None])
        return which, close

    def _rough(self, keys: Floats) -> tuple[Floats, Floats, Any, Floats, Floats]:
        """Estimate squared distances with bounds.

        Returns, for each pair of key and row, the squared distance less ‖y‖² and its bound, (k, n); the least upper
        bound of any pair's squared distance; and for each key ‖y‖² and the part common to its pairs' bounds, (k,).
        """
        n = len(self._numbers)
        copies, scales, lengths, rests = _rounded(keys)
        rows, queries = torch.from_numpy(self._copies), torch.from_numpy(copies)
        products = torch.empty(len(keys), n, 1, dtype=torch.int32)
        columns = [(queries[i, :, None], products[i]) for i in range(len(keys))]
        size = n if len(keys) == 1 else CACHED_ROWS
        for start in range(0, n, size):
            end = min(start + size, n)
            for query, product in columns:  # one at a time: the product with a single vector is by far the fastest
                torch._int_mm(rows[start:end], query, out=product[start:end])
        rough = products.numpy()[:, :, 0].astype(np.float32)
        rough *= self._scales[:n]
        rough *= (-2 * scales)[:, None]
        rough += self._squares[:n]  # the squared distance less ‖y‖², to within its bound and the key's common one:
        bounds = self._rests[:n] * (2 * (lengths + rests))[:, None]
        common = 2 * self._largest * rests + FLOAT32_ERROR * (self._largest + lengths) ** 2
        own = np.einsum("kd,kd->k", keys, keys, dtype=np.float64)  # ‖y‖²
        least = ((rough + bounds).min(1) + own + common).min()
        return rough, bounds, least, own, common

    def _reserve(self, n: int) -> None:
        """Make room for n rows: a power of 2, so that the cost of adding one does not grow with their number."""
        if n > len(self._rows):
            for name in ("_rows", "_copies", "_scales", "_squares", "_rests"):
                column = getattr(self, name)
                larger = np.empty((1 << (n - 1).bit_length(), *column.shape[1:]), column.dtype)
                larger[: len(column)] = column
                setattr(self, name, larger)


def _rounded(vectors: Floats) -> tuple[NDArray[np.int8], Floats, Floats, Floats]:
    """Quantise each vector x (n, d): q (n, d) int8 and s (n,) with x ≈ s·q; bounds on ‖s·q‖ and ‖x - s·q‖ (n,)."""
    scales = np.maximum(np.abs(vectors).max(1) / np.float32(LEVELS), SMALLEST)
    copies = np.rint(vectors / scales[:, None])
    near = copies * scales[:, None]
    lengths, rests = _norms(near) * MARGIN, _norms(vectors - near) * MARGIN
    return copies.astype(np.int8), scales, lengths, rests + FLOAT32_ERROR * lengths


def _norms(vectors: Floats) -> Floats:
    norms: Floats = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return norms


def distance(a: Tensor, b: Tensor) -> float:
    """Return the Euclidean distance of two float32 vectors, computed in float64."""
    return float(_distances(a[None].numpy(), b[None].numpy())[0])


def _distances(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Return the distance of each row of a from its row of b (n, d), each independent of the other rows."""
    away = np.subtract(a, b, dtype=np.float64)
    distances: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", away, away))
    return distances
