"""The demo's peak rule: groups of pixels above 6 sigma of the plane of their tile. Fixed before any mask is applied.

A stand-in for a hit-finder: plain numpy, of its own, sharing nothing with the maker. Knows no sockets.
"""

import numpy as np
from numpy.typing import NDArray

CUT = 6.0  # sigmas above the plane
CLIP = 3.0  # sigmas within which a pixel helps to find the plane
ROUNDS = 4


def above(frames: NDArray, tile: tuple[int, int], cut: float = CUT) -> NDArray:
    """(n, ss, fs) float32, offset subtracted -> (n, ss, fs) bool: more than `cut` sigmas above the plane of its tile.

    The plane and sigma of a tile are least squares over the pixels within CLIP sigmas, found anew ROUNDS times from the
    median and the median distance from it. Tiles at the far sides may be smaller.
    """
    out = np.zeros(frames.shape, bool)
    for i in range(0, frames.shape[1], tile[0]):
        for j in range(0, frames.shape[2], tile[1]):
            at = np.s_[:, i : i + tile[0], j : j + tile[1]]
            out[at] = _above_tile(frames[at], cut)
    return out


def _above_tile(z: NDArray, cut: float) -> NDArray:
    """One tile of all frames, (n, H, W) float32."""
    n, height, width = z.shape
    y, x = (np.arange(side, dtype=np.float32) - (side - 1) / 2 for side in (height, width))
    terms = np.stack([np.ones((height, width)), np.broadcast_to(y[:, None], (height, width)),
                      np.broadcast_to(x, (height, width))]).reshape(3, -1).astype(np.float32)  # fmt: skip
    products = (terms[:, None] * terms[None]).reshape(9, -1)
    z = z.reshape(n, -1)
    residual = z - np.median(z, axis=1, keepdims=True)
    sigma = 1.4826 * np.median(np.abs(residual), axis=1, keepdims=True)
    for _ in range(ROUNDS):
        inside = (np.abs(residual) <= CLIP * sigma).astype(np.float32)
        normal = (inside @ products.T).reshape(n, 3, 3).astype(np.float64)
        normal += 1e-6 * np.eye(3)  # a tile without an inlier gets the plane 0
        plane = np.linalg.solve(normal, ((inside * z) @ terms.T)[..., None].astype(np.float64))[..., 0]
        residual = z - plane.astype(np.float32) @ terms
        squares = np.einsum("ij,ij->i", inside, residual**2)
        sigma = np.sqrt(squares / np.maximum(inside.sum(axis=1) - 3, 1))[:, None]
    return (residual > cut * sigma).reshape(n, height, width)


def count_groups(bright: NDArray) -> int:
    """Groups of touching pixels, corners included, in a (ss, fs) bool image."""
    left = set(zip(*(index.tolist() for index in np.nonzero(bright))))
    groups = 0
    while left:
        groups += 1
        edge = [left.pop()]
        while edge:
            i, j = edge.pop()
            for neighbour in ((i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    edge.append(neighbour)
    return groups
