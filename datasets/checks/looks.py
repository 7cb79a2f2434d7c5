"""What a picture looks like, in 128 bits, and a search for those that look the same.

Measured: of 3,500 photographs of cats and dogs (six million pairs) two pairs are within MAX_DISTANCE, both copies,
and the next is at 18. On CIFAR-10 (500 million pairs of a training and a test image) those up to 10 are copies or
pictures of one series; from 11 on strangers are among them. Saved again as JPEG of quality 20, halved, grey or
brighter by a fifth, 99 to 100 % of the photographs stay within it; cut by 1 % on each side, 99.7 %, by 3 %, 59 %;
mirrored, none. Drawings on an empty ground, such as letters, may look alike without being copies.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

FORMAT = 1  # goes up when looks change
CELLS = 9  # along each side; their neighbours are compared
FOR_SIZE = (16, 16)  # a decoder may reduce a picture to twice that: `datasets.images.decode`
MIN_SIDE = 16  # pixels; smaller pictures, such as digits of 8x8, look alike by nature
FLAT = 64  # of 128 comparisons; a picture with so many equal neighbours shows too little
# Bits of 128 in which pictures that look the same may differ; `nearest` can do 15.
MAX_DISTANCE = 10
CHUNK = 1 << 20  # pairs compared at a time

# Places of the 128 compared cells. Comparisons side by side agree often: spread over the columns of `bits` they
# make `nearest` four times as fast.
_GRID = np.arange(CELLS**2).reshape(CELLS, CELLS)
_NEIGHBOUR = np.stack([_GRID[:-1, :-1]] * 2).reshape(8, 16).T.ravel()
_CELL = np.stack([_GRID[:-1, 1:], _GRID[1:, :-1]]).reshape(8, 16).T.ravel()


def look(image: np.ndarray) -> str:
    """What an image uint8 [H, W, 3] looks like, in hex: of 9x9 grey cells, which are brighter than their left
    neighbour, and which than their upper one. Empty when it is too small or too flat to tell."""
    if min(image.shape[:2]) < MIN_SIDE:
        return ""
    grey = Image.fromarray(image).convert("L").resize((CELLS, CELLS), Image.Resampling.BILINEAR)
    cells = np.frombuffer(grey.tobytes(), np.uint8).astype(np.int16)
    steps = cells[_CELL] - cells[_NEIGHBOUR]
    if np.count_nonzero(np.abs(steps) <= 1) >= FLAT:
        return ""
    return np.packbits(steps > 0).tobytes().hex()


def nearest(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of bits of `left` the nearest of `right` within MAX_DISTANCE: its position, the first of
    equally near ones, or -1, and how many bits differ. Both are uint16 [N, 8].

    Of two rows that differ in at most 15 bits, one of the 8 columns differs in at most one: only such pairs are
    compared: for CIFAR-10's 10,000 by 50,000 images half a second.
    """
    ours, back = np.unique(left, axis=0, return_inverse=True)
    theirs, first = np.unique(right, axis=0, return_index=True)
    index = np.full(len(ours), -1)
    distance = np.full(len(ours), 8 * 16)
    for column in range(left.shape[1]):
        order = np.argsort(theirs[:, column], kind="stable")
        starts = np.searchsorted(theirs[order, column], np.arange((1 << 16) + 1))
        for change in (0, *(1 << bit for bit in range(16))):
            key = (ours[:, column] ^ np.uint16(change)).astype(np.int64)
            for rows, places in _pairs(starts[key], starts[key + 1]):
                found = order[places]
                differ = np.bitwise_count(ours[rows] ^ theirs[found]).sum(axis=1, dtype=np.int64)
                near = differ <= MAX_DISTANCE
                rows, found, differ = rows[near], first[found[near]], differ[near]
                for row, i, d in zip(rows.tolist(), found.tolist(), differ.tolist(), strict=True):
                    if (d, i) < (distance[row], index[row]):
                        distance[row], index[row] = d, i
    back = back.reshape(-1)
    return index[back], distance[back]


def _pairs(low: np.ndarray, high: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All (row, place) with low[row] <= place < high[row], in pieces of about CHUNK."""
    total = np.concatenate([[0], np.cumsum(high - low)])
    begin = 0
    while begin < len(low):
        end = max(int(np.searchsorted(total, total[begin] + CHUNK, "right")) - 1, begin + 1)
        count = (high - low)[begin:end]
        rows = np.repeat(np.arange(begin, end), count)
        within = np.arange(total[begin], total[end]) - np.repeat(total[begin:end], count)
        yield rows, low[rows] + within
        begin = end


def bits(looks: Sequence[str]) -> np.ndarray:
    """Looks, none of them empty, as uint16 [N, 8] for `nearest`."""
    return np.frombuffer(bytes.fromhex("".join(looks)), np.uint16).reshape(-1, 8)
