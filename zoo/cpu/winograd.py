"""Convolution with 3 x 3 kernels by fewer multiplications: Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (CVPR 2016), their F(2 x 2, 3 x 3).

A tile of 2 x 2 outputs takes the 4 x 4 pixels around it. Both tile and kernel are transformed to 4 x 4 numbers, which
multiply one by one, 16 instead of 36 times, and are transformed back:

    y = A^T [(G g G^T) * (B^T d B)] A

Over channels and tiles each of the 16 products is a matrix product. The transforms only add and halve, so that results
differ from the direct sum's by no more than rounding (7e-7 of the largest in float32).
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Grid = Sequence[Sequence[jax.Array]]
Matrix = Sequence[Sequence[float]]

# The paper's equation (8), and their transposes.
OF_TILE = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B^T
OF_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
TO_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))  # A^T
OF_OUTPUT = tuple(zip(*TO_OUTPUT, strict=True))
TO_KERNEL = tuple(zip(*OF_KERNEL, strict=True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def winograd_conv(x: jax.Array, kernel: jax.Array, pads: tuple) -> jax.Array:
    """Convolution (cross-correlation) of [B, H, W, C] with a kernel [3, 3, C, F] at stride 1.

    `pads` is ((top, bottom), (left, right)), each at most 2. The gradient (reverse mode only) is of the same kind.
    An infinite pixel makes NaN of the outputs of its tiles, which subtract it from itself.
    """
    return _convolve(x, _grid(OF_KERNEL, kernel), pads, contracted=0)


def _convolve(x: jax.Array, kernels: Grid, pads: tuple, contracted: int) -> jax.Array:
    """Tiles of x times transformed kernels, whose axis `contracted` is x's channels, and back."""
    height, width = (size + sum(pad) - 2 for size, pad in zip(x.shape[1:3], pads, strict=True))
    pieces = Pieces.of(len(x), height, width)
    kernels = lax.optimization_barrier(kernels)

    def convolve_piece(index: jax.Array, y: jax.Array) -> jax.Array:
        # Tiles, too, are written down before they multiply: XLA would compute them anew in each product.
        tiles = lax.optimization_barrier(_tiles(pieces.take(x, index), pads))
        products = _products(tiles, kernels, (1, contracted))
        shape = (pieces.images, (height + 1) // 2, (width + 1) // 2, y.shape[-1])
        quarters = _grid(TO_OUTPUT, [[p.reshape(shape) for p in row] for row in products])
        rows = [jnp.stack(row, axis=3) for row in quarters]  # [B, tile row, tile column, 2, F]
        part = jnp.stack(rows, axis=2).reshape(shape[0], 2 * shape[1], 2 * shape[2], shape[-1])
        part = part[:, :height, :width]
        return lax.dynamic_update_slice_in_dim(y, part, pieces.start(index), axis=0)

    # Any number will do. Zeros would be one array for all convolutions, which XLA (of jaxlib 0.10) keeps, and copies
    # for each.
    y = jnp.full((len(x), height, width, kernels[0][0].shape[1 - contracted]), x[0, 0, 0, 0])
    return lax.fori_loop(0, pieces.count, convolve_piece, y)


def _products(left: Grid, right: Grid, axes: tuple[int, int]) -> list[list[jax.Array]]:
    """Matrix products, place by place, over an axis of each."""
    over = ((axes[:1], axes[1:]), ((), ()))
    return [
        [lax.dot_general(a, b, over) for a, b in zip(*row, strict=True)]
        for row in zip(left, right, strict=True)
    ]


def _forward(x: jax.Array, kernel: jax.Array, pads: tuple) -> tuple:
    return winograd_conv(x, kernel, pads), (x, kernel)


def _backward(pads: tuple, saved: tuple, dy: jax.Array) -> tuple:
    """dx is dy convolved with the kernel turned by half a circle, whose transform is this one in another order;
    written as a turned kernel, XLA takes twice the time for it."""
    x, kernel = saved
    kernels = _grid(OF_KERNEL, kernel)
    turned = [[kernels[i][j] for j in (3, 1, 2, 0)] for i in (3, 1, 2, 0)]
    dx = _convolve(dy, turned, tuple((2 - low, 2 - high) for low, high in pads), contracted=1)
    pieces = Pieces.of(*dy.shape[:3])

    def add_piece(index: jax.Array, sums: Grid) -> Grid:
        spread = _flat(_grid(OF_OUTPUT, _every_second(pieces.take(dy, index, once=True), 2)))
        tiles, spread = lax.optimization_barrier((_tiles(pieces.take(x, index), pads), spread))
        return jax.tree.map(jnp.add, sums, _products(tiles, spread, (0, 0)))

    zero = jnp.zeros(kernel.shape[2:], jnp.promote_types(kernel.dtype, jnp.float32))
    sums = lax.fori_loop(0, pieces.count, add_piece, [[zero] * 4] * 4)
    gradient = jnp.stack([jnp.stack(row) for row in _grid(TO_KERNEL, sums)])
    return dx, gradient.astype(kernel.dtype)


winograd_conv.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """How a batch is worked off, piece by piece.

    Tiles and products are four times as large as the images. All at once they would be fresh memory for each
    convolution; a piece's stay in the cache, where the next one's take their place (128 images of 14x14, 128 to 256
    channels, two cores: 41 instead of 62 ms, XLA's own convolution 75).
    """

    count: int
    images: int  # in each; where that is more than there are, the last piece begins with images of the one before
    batch: int

    @classmethod
    def of(cls, batch: int, height: int, width: int) -> "Pieces":
        """For outputs [batch, height, width]: as large as possible, of at most `TILES` tiles (or of one image)."""
        most = max(TILES // (((height + 1) // 2) * ((width + 1) // 2)), 1)
        count = -(-batch // most)
        return cls(count, -(-batch // count), batch)

    def start(self, index: jax.Array) -> jax.Array:
        """The first image of a piece."""
        return jnp.minimum(index * self.images, self.batch - self.images)

    def take(self, x: jax.Array, index: jax.Array, once: bool = False) -> jax.Array:
        """A piece of x; with `once`, zeros for images that the piece before has."""
        start = self.start(index)
        part = lax.dynamic_slice_in_dim(x, start, self.images)
        if once and self.count * self.images > self.batch:
            first = start + jnp.arange(self.images) >= index * self.images
            part = jnp.where(first.reshape(-1, 1, 1, 1), part, 0)
        return part


TILES = 800  # a piece: fewer make small matrix products, which take longer


def _tiles(x: jax.Array, pads: tuple) -> list[list[jax.Array]]:
    """Transformed tiles: a grid of 4 x 4 arrays [tiles, C]."""
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    return _flat(_grid(OF_TILE, _every_second(x, 4)))


def _flat(grid: Grid) -> list[list[jax.Array]]:
    return [[entry.reshape(-1, entry.shape[-1]) for entry in row] for row in grid]


def _every_second(x: jax.Array, size: int) -> list[list[jax.Array]]:
    """The pixels of tiles of `size` x `size` at a distance of two: at [i][j] the one at i, j of each tile,
    [B, tile row, tile column, C]. Zeros fill up the last tiles."""
    counts = [(extent - size + 3) // 2 for extent in x.shape[1:3]]
    extents = [2 * count + size - 2 for count in counts]
    fill = [(0, e - extent, 0) for e, extent in zip(extents, x.shape[1:3], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *fill, (0, 0, 0)])
    rows, columns = [[slice(i, i + 2 * n - 1, 2) for i in range(size)] for n in counts]
    return [[x[:, row, column] for column in columns] for row in rows]


def _grid(matrix: Matrix, grid: Grid | jax.Array) -> list[list[jax.Array]]:
    """matrix @ grid @ matrix^T, the grid's entries being arrays."""
    tall = [[_sum(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_sum(row, line) for row in matrix] for line in tall]


def _sum(factors: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    terms = [
        a if f == 1 else -a if f == -1 else f * a for f, a in zip(factors, arrays, strict=True) if f
    ]
    return functools.reduce(jnp.add, terms)
