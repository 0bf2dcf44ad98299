"""Improved precision and recall, by the rule of the ADM evaluator.

Two choices of that rule show in the published numbers: distances are computed in float16, and a 10,000 x 10,000 block
of them in which a value is not finite is computed again in float32. Both are copied here, down to the order in which
a row's squares are summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dit_eval.system.switches import arithmetic

_BLOCK = 10_000  # rows and columns of a block: the float32 fallback is decided for one block at a time
_CHUNK = 2_000  # rows of a block that are in memory at once; no effect on the result
_GROUP = 16  # the k smallest of a row are looked for in the groups of 16 with the smallest minima

_CLIP_LIMIT = 32_000.0  # from 2 u.v = 65,520 on float16 holds inf; u.v reaches 32,760 only if some |f|^2 does
_FINITE_LIMIT = 60_000.0  # distances below it are finite in float16 (largest: 65,504), rounding errors included
_FLOAT32_LIMIT = 1e37  # squared distances are at most four times the largest |f|^2: finite in float32


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Precision and recall of generated features, and what a caller may want to warn about.

    Attributes
    ----------
    precision : float
        Share of the generated features inside the reference manifold, 0 to 1.
    recall : float
        Share of the reference features inside the generated manifold, 0 to 1.
    gen_inside, ref_inside : int
        The counts behind the two shares.
    float32_blocks : int
        Number of blocks that were not finite in float16 and were computed in float32 (0 with ``distances="float32"``).
    clipped_risk : bool
        True if the largest ``|f|^2`` is above 32,000 and distances are in float16. Then ``2 u.v`` may overflow where
        the norms do not; the distance becomes -inf, is clipped to 0, and both shares come out near 1.
    """

    precision: float
    recall: float
    gen_inside: int
    ref_inside: int
    float32_blocks: int
    clipped_risk: bool


def precision_recall(
    *,
    gen: np.ndarray,
    ref: np.ndarray,
    k: int = 3,
    distances: Literal["adm-float16", "float32"] = "adm-float16",
    device: str | torch.device = "cpu",
) -> PrecisionRecall:
    """Share of ``gen`` in the manifold of ``ref`` (precision) and of ``ref`` in that of ``gen`` (recall).

    A set's manifold is the union of a ball around each of its rows that reaches to the row's k-th nearest neighbour
    in the same set (the row itself not counted). Balls are closed: a distance equal to the radius is inside.

    Parameters
    ----------
    gen, ref : np.ndarray
        Features of all generated (N, D) and all reference (M, D) images, float32 (other types are converted).
    k : int
        Which neighbour gives the radius.
    distances : {"adm-float16", "float32"}
        "adm-float16" is the evaluator's rule as TensorFlow runs it on a CPU; "float32" computes every distance in
        float32 and differs from it by up to about 0.01.
    device : str or torch.device
        Where the distances are computed.

    Returns
    -------
    PrecisionRecall

    Raises
    ------
    ValueError
        If an array is not two-dimensional, the dimensions differ, a side has fewer than k + 1 rows, or features are
        not finite or so large that squared distances overflow float32; or for an unknown ``distances`` or ``k < 1``.

    Notes
    -----
    Row norms are bit for bit those of TensorFlow. A product u.v is accumulated in float32, in the order of the matrix
    library at hand, before it is rounded to float16. On processors with float16 arithmetic (AVX512-FP16), TensorFlow
    takes oneDNN's kernel; so do we, and products are equal bit for bit. Elsewhere TensorFlow takes Eigen's, and about
    one distance in ten thousand is one float16 step away from ours; a count may then differ by an image, as the
    evaluator's own counts do between processors.

    References
    ----------
    Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models".
    openai/guided-diffusion, evaluations/evaluator.py: ManifoldEstimator and DistanceBlock.
    """
    if distances not in ("adm-float16", "float32"):
        raise ValueError(f'distances={distances!r} is unknown: pass "adm-float16" or "float32".')
    if k < 1:
        raise ValueError(f"k={k} gives no neighbour: pass k >= 1 (the published protocol uses 3).")
    gen, ref = _checked(gen, "gen", k), _checked(ref, "ref", k)
    if gen.shape[1] != ref.shape[1]:
        raise ValueError(
            f"gen has {gen.shape[1]:,} feature dimensions, ref has {ref.shape[1]:,}; both need the same. "
            "Extract both with the same network and layer."
        )
    float16 = distances == "adm-float16"
    device = torch.device(device)
    with torch.inference_mode(), arithmetic("fp32", device):
        gen_set = _FeatureSet(gen, "gen", float16, device)
        ref_set = _FeatureSet(ref, "ref", float16, device)
        gen_radii, gen_fallbacks = _radii(gen_set, k)
        ref_radii, ref_fallbacks = _radii(ref_set, k)
        gen_mask, ref_mask, cross_fallbacks = _masks_inside(gen_set, gen_radii, ref_set, ref_radii)
    gen_inside, ref_inside = int(gen_mask.sum()), int(ref_mask.sum())
    return PrecisionRecall(
        precision=gen_inside / len(gen),
        recall=ref_inside / len(ref),
        gen_inside=gen_inside,
        ref_inside=ref_inside,
        float32_blocks=gen_fallbacks + ref_fallbacks + cross_fallbacks,
        clipped_risk=float16 and max(gen_set.largest_norm, ref_set.largest_norm) > _CLIP_LIMIT,
    )


def inside_reference(
    *,
    gen: np.ndarray,
    ref: np.ndarray,
    k: int = 3,
    distances: Literal["adm-float16", "float32"] = "adm-float16",
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Which rows of ``gen`` are in the manifold of ``ref``, bool (N,): those that `precision_recall` counts.

    Parameters and errors as there.
    """
    float16, device = distances == "adm-float16", torch.device(device)
    gen, ref = _checked(gen, "gen", k), _checked(ref, "ref", k)
    with torch.inference_mode(), arithmetic("fp32", device):
        gen_set = _FeatureSet(gen, "gen", float16, device)
        ref_set = _FeatureSet(ref, "ref", float16, device)
        ref_radii, _ = _radii(ref_set, k)
        gen_mask, _, _ = _masks_inside(gen_set, torch.zeros(len(gen), device=device), ref_set, ref_radii)
    return gen_mask.cpu().numpy()


def _checked(features: np.ndarray, role: str, k: int) -> np.ndarray:
    """Features as a float32 array, or a ValueError that says what is wrong with them."""
    features = np.asarray(features, dtype=np.float32)
    if features.ndim != 2:
        raise ValueError(
            f"{role} has shape {features.shape}, needed is (images, features). "
            "Flatten each image's features into one row."
        )
    if len(features) < k + 1:
        raise ValueError(
            f"{role} has {len(features)} rows, k={k} needs at least {k + 1}: a row's radius is the distance to its "
            f"k-th neighbour. Pass more images or a smaller k."
        )
    for start in range(0, len(features), _CHUNK):
        finite = np.isfinite(features[start : start + _CHUNK]).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{role} row {start + int(finite.argmin())} holds NaN or infinity, all features must be finite. "
                "Check that image and the network's weights."
            )
    return features


def _has_float16_products(device: torch.device) -> bool:
    """Whether oneDNN multiplies float16 matrices on this processor, as it then does in TensorFlow too."""
    if device.type != "cpu" or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())  # absent where PyTorch is built without oneDNN


class _FeatureSet:
    """One set of features with its row norms, handed out in blocks in either precision."""

    def __init__(self, features: np.ndarray, role: str, float16: bool, device: torch.device) -> None:
        self.features = features  # (N, D) float32, stays in host memory
        self.device = device
        self.dtype = torch.float16 if float16 else torch.float32  # to try first
        self.norms32 = torch.empty(len(features), device=device)
        self.features16 = torch.empty(features.shape if float16 else (0, 0), dtype=torch.float16, device=device)
        self.norms16 = torch.empty(len(self.features16), dtype=torch.float16, device=device)
        for start in range(0, len(features), _CHUNK):
            rows = slice(start, start + _CHUNK)
            chunk = self._float32(rows)
            self.norms32[rows] = chunk.square().sum(1)
            if float16:
                self.features16[rows] = chunk
                self.norms16[rows] = _norms_float16(self.features16[rows])
        self.largest_norm = float(self.norms32.max())
        if not self.largest_norm < _FLOAT32_LIMIT:
            raise ValueError(
                f"{role}: the largest |f|^2 is {self.largest_norm:.1e}, squared distances need it below "
                f"{_FLOAT32_LIMIT:.0e} to fit float32. Check the features' scale."
            )

    def __len__(self) -> int:
        return len(self.features)

    def blocks(self) -> list[slice]:
        return [slice(start, min(start + _BLOCK, len(self))) for start in range(0, len(self), _BLOCK)]

    def rows(self, rows: slice, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (R, D) rounded to ``dtype``, as the type to multiply in, and their squared norms in ``dtype``."""
        if dtype == torch.float16:
            features = self.features16[rows]
            return (features if _has_float16_products(self.device) else features.float()), self.norms16[rows]
        return self._float32(rows), self.norms32[rows]

    def _float32(self, rows: slice) -> torch.Tensor:
        return torch.from_numpy(self.features[rows].copy()).to(self.device)  # copied: the array may be read-only


def _norms_float16(features: torch.Tensor) -> torch.Tensor:
    """Squared row norms of (R, D) float16 features, summed in float16 in the order of TensorFlow's CPU kernel.

    The kernel (Eigen's reduction along the innermost dimension) splits a long row at a multiple of 8 of the position
    in the whole tensor, so the split of a row depends on where the row starts when D is no multiple of 8. The first
    row must start at a multiple of 8.
    """
    squares = features.square()
    dim = features.shape[1]
    if dim % 8 == 0:
        return _row_sums_float16(squares, 0)
    norms = torch.empty(len(features), dtype=torch.float16, device=features.device)
    for i in range(min(8, len(features))):
        norms[i::8] = _row_sums_float16(squares[i::8], i * dim)
    return norms


def _row_sums_float16(values: torch.Tensor, position: int) -> torch.Tensor:
    """Sums of (R, D) float16 rows of which the first value stands at ``position`` of its tensor."""
    dim = values.shape[1]
    if dim > 1600:
        split = -((position + -(-dim // 2)) // -8) * 8 - position
        left, right = values[:, :split], values[:, split:]
        return _row_sums_float16(left, position) + _row_sums_float16(right, position + split)
    packets = values[:, : dim // 8 * 8].unflatten(1, (-1, 8))  # (R, packets, lanes)
    in_turn = packets.shape[1] // 4 * 4
    sums = torch.zeros(len(values), 4, 8, dtype=torch.float16, device=values.device)  # four accumulators take turns
    for i in range(0, in_turn, 4):
        sums += packets[:, i : i + 4]
    lanes = sums[:, 0] + sums[:, 1] + sums[:, 2] + sums[:, 3]
    for i in range(in_turn, packets.shape[1]):
        lanes += packets[:, i]
    tail = torch.zeros(len(values), dtype=torch.float16, device=values.device)
    for i in range(dim // 8 * 8, dim):
        tail += values[:, i]
    return tail + lanes.float().sum(1).half()


def _distances(products: torch.Tensor, row_norms: torch.Tensor, col_norms: torch.Tensor) -> torch.Tensor:
    """Squared distances from products ``-2 u.v``, rounded after each addition, as integers with the same bits.

    Read as integers, floats from 0 up keep their order and those below 0 are negative. The rule clips distances at 0,
    so the order among the latter does not matter. Integers are compared several times faster than float16.
    """
    distances = products + row_norms
    distances += col_norms
    return distances.view(torch.int16 if distances.dtype == torch.float16 else torch.int32)


def _as_float32(distances: torch.Tensor) -> torch.Tensor:
    """The float32 values of what `_distances` returns, clipped at 0."""
    return distances.view(torch.float16 if distances.dtype == torch.int16 else torch.float32).float().clamp_min(0)


def _round_down(radii: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Radii as integers to compare with `_distances`: in float16, d <= radius exactly if d <= radius rounded down."""
    if dtype == torch.float32:
        return radii.view(torch.int32)
    rounded = radii.half()
    return rounded.view(torch.int16) - (rounded.float() > radii).short()


def _any_within(distances: torch.Tensor, radii: torch.Tensor, dim: int) -> torch.Tensor:
    return (distances <= radii).view(torch.uint8).amax(dim).bool()  # amax is several times faster than any here


class _Block:
    """Rows of one set against rows of another (or the same), in float16 or float32."""

    def __init__(self, u_set: _FeatureSet, u: slice, v_set: _FeatureSet, v: slice, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.u, self.u_norms = u_set.rows(u, dtype)
        self.v, self.v_norms = v_set.rows(v, dtype)
        # The largest distance possible is (max |u| + max |v|)^2.
        bound = float(self.u_norms.max().float().sqrt() + self.v_norms.max().float().sqrt()) ** 2
        self.may_overflow = dtype == torch.float16 and not bound < _FINITE_LIMIT
        # A row with an infinite norm has distances of inf or NaN only. Without one there is no NaN, but maybe inf.
        self.infinite_norm = self.may_overflow and bound == float("inf")

    def products(self, rows: slice, first_col: int = 0) -> torch.Tensor:
        """``-2 u.v`` of some rows with all columns from ``first_col`` on, rounded to the block's type.

        The rule doubles after rounding; the result is the same unless |u.v| is below 2^-14.
        """
        return ((-2 * self.u[rows]) @ self.v[first_col:].T).to(self.dtype)

    def overflows(self, distances: torch.Tensor) -> bool:
        return self.may_overflow and int(distances.max()) >= 0x7C00  # the bits of inf


def _chunks(rows: int) -> list[tuple[int, int]]:
    """First and last + 1 of about ``_CHUNK`` rows each; never one row alone, which is multiplied by another kernel."""
    starts = range(0, max(rows - 1, 1), _CHUNK)
    return [(start, rows if start + _CHUNK >= rows - 1 else start + _CHUNK) for start in starts]


def _radii(features: _FeatureSet, k: int) -> tuple[torch.Tensor, int]:
    """Squared distance of each row to its k-th neighbour (N,) float32, and how many blocks fell back to float32."""
    nearest = torch.full((k + 1, len(features)), torch.inf, device=features.device)  # the row itself is one of them
    fallbacks = 0
    blocks = features.blocks()
    for i, a in enumerate(blocks):
        for b in blocks[i:]:
            found = _nearest(features, a, b, k + 1, features.dtype)
            failed = [near is None for near in found]
            if any(failed):
                fallbacks += sum(failed)
                exact = _nearest(features, a, b, k + 1, torch.float32)
                found = [again if near is None else near for near, again in zip(found, exact, strict=True)]
            for rows, near in zip((a, b), found, strict=False):  # on the diagonal there is one result
                if near is not None:
                    nearest[:, rows] = torch.cat([nearest[:, rows], near]).topk(k + 1, dim=0, largest=False).values
    return nearest[k], fallbacks


def _nearest(features: _FeatureSet, a: slice, b: slice, count: int, dtype: torch.dtype) -> list[torch.Tensor | None]:
    """The ``count`` smallest distances of rows ``a`` to columns ``b``, (count, A), and of rows ``b`` to columns ``a``.

    These are two blocks with the same products, so each product is formed once. When ``a`` is ``b`` it is one block
    with one result, and half of the products do. None stands for a block that is not finite.
    """
    same = a == b
    block = _Block(features, a, features, b, dtype)
    if block.infinite_norm:
        return [None] if same else [None, None]
    u_norms, v_norms = block.u_norms, block.v_norms
    near_a = torch.full((count, len(u_norms)), torch.inf, device=features.device)
    near_b = near_a if same else torch.full((count, len(v_norms)), torch.inf, device=features.device)
    failed_a = failed_b = False
    for start, end in _chunks(len(u_norms)):
        left, right = (start, end) if same else (0, 0)  # columns left of the chunk were the rows of earlier chunks
        products = block.products(slice(start, end), left)
        distances = _distances(products, u_norms[start:end, None], v_norms[left:])
        failed_a = failed_a or block.overflows(distances)
        _keep_smallest(near_a[:, start:end], distances.T)
        if right < len(v_norms):
            distances = _distances(products[:, right - left :], v_norms[right:], u_norms[start:end, None])
            failed_b = failed_b or block.overflows(distances)
            _keep_smallest(near_b[:, right:], distances)
    if same:
        return [None if failed_a or failed_b else near_a]
    return [None if failed_a else near_a, None if failed_b else near_b]


def _keep_smallest(nearest: torch.Tensor, distances: torch.Tensor) -> None:
    """Merge what `_distances` returns (n, m) into the smallest values of each column so far (c, m) float32."""
    count = len(nearest)
    groups = len(distances) // _GROUP
    if groups > count:
        # The c smallest lie in the c groups with the smallest minima, or have equals there. This looks at every
        # distance once, in the fast direction; a plain topk over all of them takes several times longer.
        grouped = distances[: groups * _GROUP].unflatten(0, (_GROUP, groups))
        chosen = _as_float32(grouped.amin(0)).topk(count, dim=0, largest=False).indices  # (c, m)
        members = grouped.gather(1, chosen.expand(_GROUP, -1, -1)).flatten(0, 1)  # (16 c, m)
        distances = torch.cat([members, distances[groups * _GROUP :]])
    candidates = torch.cat([nearest, _as_float32(distances)])
    nearest.copy_(candidates.topk(count, dim=0, largest=False).values)


def _masks_inside(
    gen: _FeatureSet, gen_radii: torch.Tensor, ref: _FeatureSet, ref_radii: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Which rows of ``gen`` and of ``ref`` lie inside the other's manifold, and how many blocks fell back."""
    gen_inside = torch.zeros(len(gen), dtype=torch.bool, device=gen.device)
    ref_inside = torch.zeros(len(ref), dtype=torch.bool, device=ref.device)
    fallbacks = 0
    for r in ref.blocks():
        for g in gen.blocks():
            found = _inside(_Block(ref, r, gen, g, gen.dtype), gen_radii[g], ref_radii[r])
            if found is None:
                fallbacks += 1
                found = _inside(_Block(ref, r, gen, g, torch.float32), gen_radii[g], ref_radii[r])
            if found is not None:
                gen_inside[g] |= found[0]
                ref_inside[r] |= found[1]
    return gen_inside, ref_inside, fallbacks


def _inside(
    block: _Block, gen_radii: torch.Tensor, ref_radii: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Which columns (gen) and which rows (ref) of a block are inside a ball of the other; None if it is not finite."""
    if block.infinite_norm:
        return None
    gen_limits, ref_limits = _round_down(gen_radii, block.dtype), _round_down(ref_radii, block.dtype)
    gen_inside = torch.zeros_like(gen_radii, dtype=torch.bool)
    ref_inside = torch.zeros_like(ref_radii, dtype=torch.bool)
    for start, end in _chunks(len(ref_radii)):
        rows = slice(start, end)
        distances = _distances(block.products(rows), block.u_norms[rows, None], block.v_norms)
        if block.overflows(distances):
            return None
        gen_inside |= _any_within(distances, ref_limits[rows, None], dim=0)
        ref_inside[rows] = _any_within(distances, gen_limits, dim=1)
    return gen_inside, ref_inside
