"""Winograd convolution with 3 x 3 kernels: F(2 x 2, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (CVPR 2016).

A tile of 2 x 2 outputs needs 4 x 4 input pixels. Tile and kernel are transformed to 4 x 4 values, multiplied
elementwise (16 multiplications instead of 36) and transformed back:

    y = A^T [(G g G^T) * (B^T d B)] A

Over channels and tiles, each of the 16 products is a matrix product. The transforms only add and halve, so results
differ from direct convolution only by rounding (7e-7 of the largest value in float32).
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Grid = Sequence[Sequence[jax.Array]]
Matrix = Sequence[Sequence[float]]

# The paper's equation (8), and the transposes for the gradient.
TILE_TRANSFORM = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B^T
KERNEL_TRANSFORM = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
OUTPUT_TRANSFORM = ((1, 1, 1, 0), (0, 1, -1, -1))  # A^T
KERNEL_TRANSPOSED = tuple(zip(*KERNEL_TRANSFORM, strict=True))  # G^T
OUTPUT_TRANSPOSED = tuple(zip(*OUTPUT_TRANSFORM, strict=True))  # A


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def winograd_conv(x: jax.Array, kernel: jax.Array, pads: tuple) -> jax.Array:
    """Convolution (cross-correlation) of [B, H, W, C] with a kernel [3, 3, C, F], stride 1.

    `pads` is ((top, bottom), (left, right)), each at most 2. The gradient (reverse mode only) is also computed by
    Winograd's method. An infinite pixel makes the outputs of its tiles NaN, because the transform subtracts it from
    itself.
    """
    return _convolve(x, _transform(KERNEL_TRANSFORM, kernel), pads, contracted=0)


def _convolve(x: jax.Array, kernels: Grid, pads: tuple, contracted: int) -> jax.Array:
    """Convolve x with transformed kernels; axis `contracted` of the kernels corresponds to the channels of x."""
    height, width = (size + sum(pad) - 2 for size, pad in zip(x.shape[1:3], pads, strict=True))
    chunks = Chunks.of(len(x), height, width)
    kernels = lax.optimization_barrier(kernels)

    def convolve_chunk(index: jax.Array, y: jax.Array) -> jax.Array:
        # Also materialize the tiles: otherwise, XLA recomputes them for each product.
        tiles = lax.optimization_barrier(_tiles(chunks.take(x, index), pads))
        products = _products(tiles, kernels, (1, contracted))
        shape = (chunks.images, (height + 1) // 2, (width + 1) // 2, y.shape[-1])
        outputs = _transform(
            OUTPUT_TRANSFORM, [[p.reshape(shape) for p in row] for row in products]
        )
        rows = [jnp.stack(row, axis=3) for row in outputs]  # [B, tile row, tile column, 2, F]
        chunk = jnp.stack(rows, axis=2).reshape(shape[0], 2 * shape[1], 2 * shape[2], shape[-1])
        chunk = chunk[:, :height, :width]
        return lax.dynamic_update_slice_in_dim(y, chunk, chunks.start(index), axis=0)

    # The initial value does not matter. With zeros, XLA (jaxlib 0.10) shares one constant between all convolutions and
    # copies it for each.
    y = jnp.full((len(x), height, width, kernels[0][0].shape[1 - contracted]), x[0, 0, 0, 0])
    return lax.fori_loop(0, chunks.count, convolve_chunk, y)


def _products(left: Grid, right: Grid, axes: tuple[int, int]) -> list[list[jax.Array]]:
    """Matrix products of corresponding entries, contracting one axis of each."""
    dimensions = ((axes[:1], axes[1:]), ((), ()))
    return [
        [lax.dot_general(a, b, dimensions) for a, b in zip(*row, strict=True)]
        for row in zip(left, right, strict=True)
    ]


def _forward(x: jax.Array, kernel: jax.Array, pads: tuple) -> tuple:
    return winograd_conv(x, kernel, pads), (x, kernel)


def _backward(pads: tuple, saved: tuple, dy: jax.Array) -> tuple:
    """Gradients of images and kernel.

    dx is dy convolved with the kernel rotated by 180 degrees. The transform of the rotated kernel is a permutation of
    the kernel's transform; rotating the kernel itself takes XLA twice the time.
    """
    x, kernel = saved
    kernels = _transform(KERNEL_TRANSFORM, kernel)
    rotated = [[kernels[i][j] for j in (3, 1, 2, 0)] for i in (3, 1, 2, 0)]
    dx = _convolve(dy, rotated, tuple((2 - low, 2 - high) for low, high in pads), contracted=1)
    chunks = Chunks.of(*dy.shape[:3])

    def add_chunk(index: jax.Array, sums: Grid) -> Grid:
        dy_chunk = _stride_2_grid(chunks.take(dy, index, mask_overlap=True), 2)
        dy_tiles = _flatten(_transform(OUTPUT_TRANSPOSED, dy_chunk))
        tiles, dy_tiles = lax.optimization_barrier((_tiles(chunks.take(x, index), pads), dy_tiles))
        return jax.tree.map(jnp.add, sums, _products(tiles, dy_tiles, (0, 0)))

    zero = jnp.zeros(kernel.shape[2:], jnp.promote_types(kernel.dtype, jnp.float32))
    sums = lax.fori_loop(0, chunks.count, add_chunk, [[zero] * 4] * 4)
    gradient = jnp.stack([jnp.stack(row) for row in _transform(KERNEL_TRANSPOSED, sums)])
    return dx, gradient.astype(kernel.dtype)


winograd_conv.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Division of a batch into chunks of images that are processed one after the other.

    Tiles and products take four times the memory of the images. Computed all at once, they would need new memory for
    each convolution; those of a chunk stay in the cache and are overwritten by the next chunk. For 128 images of 14x14,
    128 to 256 channels, on two cores, this takes 41 ms instead of 62; XLA's convolution takes 75.
    """

    count: int
    images: int  # per chunk; if count * images > batch, the last chunk overlaps the one before
    batch: int

    @classmethod
    def of(cls, batch: int, height: int, width: int) -> "Chunks":
        """Largest chunks of at most `TILES` tiles, but at least one image, for outputs [batch, height, width]."""
        max_images = max(TILES // (((height + 1) // 2) * ((width + 1) // 2)), 1)
        count = -(-batch // max_images)
        return cls(count, -(-batch // count), batch)

    def start(self, index: jax.Array) -> jax.Array:
        """Index of the first image of a chunk."""
        return jnp.minimum(index * self.images, self.batch - self.images)

    def take(self, x: jax.Array, index: jax.Array, mask_overlap: bool = False) -> jax.Array:
        """Slice a chunk of x; `mask_overlap` zeroes images that the previous chunk contains."""
        start = self.start(index)
        chunk = lax.dynamic_slice_in_dim(x, start, self.images)
        if mask_overlap and self.count * self.images > self.batch:
            new = start + jnp.arange(self.images) >= index * self.images
            chunk = jnp.where(new.reshape(-1, 1, 1, 1), chunk, 0)
        return chunk


TILES = 800  # per chunk; with fewer, the matrix products are too small to be fast


def _tiles(x: jax.Array, pads: tuple) -> list[list[jax.Array]]:
    """Transformed tiles: a 4 x 4 grid of arrays [tiles, C]."""
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    return _flatten(_transform(TILE_TRANSFORM, _stride_2_grid(x, 4)))


def _flatten(grid: Grid) -> list[list[jax.Array]]:
    return [[entry.reshape(-1, entry.shape[-1]) for entry in row] for row in grid]


def _stride_2_grid(x: jax.Array, size: int) -> list[list[jax.Array]]:
    """Cut x into `size` x `size` tiles with stride 2, the last ones padded with zeros.

    Entry [i][j] of the result contains pixel (i, j) of every tile: [B, tile row, tile column, C].
    """
    counts = [(extent - size + 3) // 2 for extent in x.shape[1:3]]
    extents = [2 * count + size - 2 for count in counts]
    fill = [(0, e - extent, 0) for e, extent in zip(extents, x.shape[1:3], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *fill, (0, 0, 0)])
    rows, columns = [[slice(i, i + 2 * n - 1, 2) for i in range(size)] for n in counts]
    return [[x[:, row, column] for column in columns] for row in rows]


def _transform(matrix: Matrix, grid: Grid | jax.Array) -> list[list[jax.Array]]:
    """matrix @ grid @ matrix^T for a grid of arrays."""
    left = [[_weighted_sum(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_weighted_sum(row, line) for row in matrix] for line in left]


def _weighted_sum(factors: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    terms = [
        a if f == 1 else -a if f == -1 else f * a for f, a in zip(factors, arrays, strict=True) if f
    ]
    return functools.reduce(jnp.add, terms)
