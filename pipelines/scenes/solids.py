"""Solids that rays are cast at: unions of convex parts, each part an intersection of planes and quadrics.

A ray meets a convex primitive in one interval, a part in the intersection of its primitives' intervals, a solid in the
nearest of its parts. Vectors are float32 arrays (3, n), a row for each axis: NumPy is fast along the long axis.
A solid stands in its own frame: its centre is that of its bounding box, y is its axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_TINY = np.float32(1e-12)
_NEVER = np.float32(np.inf)

Half = tuple[float, float, float]


@dataclass(frozen=True)
class Plane:
    """The half-space normal . x <= offset; `normal` has length 1."""

    normal_: tuple[float, float, float]
    offset: float

    def interval(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(t in, t out), float32 (n,), of rays origin + t direction."""
        slope, height = _dot(self.normal_, direction), _dot(self.normal_, origin) - np.float32(self.offset)
        slope = np.where(np.abs(slope) < _TINY, _TINY, slope)
        t = -height / slope
        enters = slope < 0
        return np.where(enters, t, -_NEVER), np.where(enters, _NEVER, t)

    def normal(self, point: np.ndarray) -> np.ndarray:
        """float32 (3, n), outward."""
        return np.broadcast_to(np.array(self.normal_, np.float32)[:, None], point.shape)


@dataclass(frozen=True)
class Slab:
    """The inside of two parallel planes: -half <= x, y or z <= half."""

    axis: int
    half: float

    def interval(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(t in, t out), float32 (n,), of rays origin + t direction."""
        along, half = direction[self.axis], np.float32(self.half)
        scale = 1 / np.where(np.abs(along) < _TINY, _TINY, along)
        middle, reach = -origin[self.axis] * scale, half * np.abs(scale)
        return middle - reach, middle + reach

    def normal(self, point: np.ndarray) -> np.ndarray:
        """float32 (3, n), outward."""
        result = np.zeros_like(point)
        result[self.axis] = np.sign(point[self.axis])
        return result


@dataclass(frozen=True)
class Quadric:
    """The inside of a_x x^2 + a_y y^2 + a_z z^2 + b y + c <= 0: a sphere, a cylinder, or a cone (a_y < 0).

    Of the two halves of a cone it is the lower one, which opens downward; a plane must cut the upper one off.
    """

    a: tuple[float, float, float]
    b: float
    c: float

    def interval(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(t in, t out), float32 (n,), of rays origin + t direction; in > out where a ray misses."""
        ax, ay, az = (np.float32(value) for value in self.a)
        b, c = np.float32(self.b), np.float32(self.c)
        (ox, oy, oz), (dx, dy, dz) = origin, direction
        square, linear, constant = ax * (dx * dx), ax * (ox * dx), ax * (ox * ox) + c
        square += az * (dz * dz)
        linear += az * (oz * dz)
        constant += az * (oz * oz)
        if ay:
            square += ay * (dy * dy)
            linear += (ay * oy + b / 2) * dy
            constant += (ay * oy + b) * oy
        square = np.where(np.abs(square) < _TINY, _TINY, square)
        inside = linear * linear - square * constant
        root = np.sqrt(np.maximum(inside, 0))
        first, second = (-linear - root) / square, (-linear + root) / square
        if ay < 0:  # steeper than the cone, a ray meets both halves: `second` is then the earlier of the two
            steep, down = square < 0, dy < 0
            into = np.where(steep, np.where(down, first, -_NEVER), first)
            out = np.where(steep, np.where(down, _NEVER, second), second)
            first, second = into, out
        return np.where(inside < 0, _NEVER, first), np.where(inside < 0, -_NEVER, second)

    def normal(self, point: np.ndarray) -> np.ndarray:
        """float32 (3, n) of length 1, outward."""
        gradient = np.array(self.a, np.float32)[:, None] * point
        gradient[1] += np.float32(self.b / 2)
        return unit(gradient)


Primitive = Plane | Slab | Quadric


@dataclass(frozen=True)
class Solid:
    """A union of convex parts within the box of half extents `half`, in metres."""

    half: Half
    parts: tuple[tuple[Primitive, ...], ...]

    @cached_property
    def faces(self) -> tuple[Primitive, ...]:
        """Every primitive; `intersect` names them by their place here."""
        return tuple(primitive for part in self.parts for primitive in part)

    @property
    def radius(self) -> float:
        """Of a sphere around the centre that holds it."""
        return float(np.linalg.norm(self.half))

    def intersect(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rays enter the solid, from outside.

        Args:
            origin, direction: float32 (3, n), in its frame; directions may have any length.

        Returns:
            t float32 (n,), inf where a ray misses or starts behind; the face int8 (n,) that it enters by.
        """
        # Seen from the point nearest to the centre, all numbers are of the solid's size, whatever the distance.
        shift = -dot(origin, direction) / dot(direction, direction)
        near = origin + shift * direction
        best, best_face = np.full(shift.shape, _NEVER), np.zeros(shift.shape, np.int8)
        first_face = 0
        for part in self.parts:
            into, out = np.full(shift.shape, -_NEVER), np.full(shift.shape, _NEVER)
            face = np.zeros(shift.shape, np.int8)
            for number, primitive in enumerate(part, first_face):
                begin, end = primitive.interval(near, direction)
                face[begin > into] = number
                into, out = np.maximum(into, begin), np.minimum(out, end)
            first_face += len(part)
            t = into + shift
            nearer = (into < out) & (t > 0) & (t < best)
            best, best_face = np.where(nearer, t, best), np.where(nearer, face, best_face)
        return best, best_face

    def normals(self, point: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Outward normals float32 (3, n) at points (3, n) on the faces int8 (n,)."""
        result = np.empty_like(point)
        for number in np.unique(face):
            here = face == number
            result[:, here] = self.faces[number].normal(point[:, here])
        return result


def dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The products (n,) of vectors (3, n). Explicit: a matrix product would start threads of BLAS."""
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (3, n) at length 1."""
    return vectors / np.sqrt(np.maximum(dot(vectors, vectors), _TINY))


def rotate(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """matrix (3, 3) times vectors (3, n), float32."""
    m, (x, y, z) = matrix.astype(np.float32), vectors
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in m])


def solid(shape: str, half: Half) -> Solid:
    """The solid of a shape of kinds.SHAPES, with these half extents in metres."""
    return Solid(half, _PARTS[shape](*half))


def _dot(normal: tuple[float, float, float], vectors: np.ndarray) -> np.ndarray:
    """Most normals have zeros: those axes cost nothing."""
    total: np.ndarray | None = None
    for value, row in zip(normal, vectors, strict=True):
        if value:
            term = np.float32(value) * row
            total = term if total is None else total + term
    assert total is not None
    return total


def _plane(x: float, y: float, z: float, through: tuple[float, float, float]) -> Plane:
    """With any length of its normal, through a point."""
    length = float(np.sqrt(x * x + y * y + z * z))
    normal = (x / length, y / length, z / length)
    return Plane(normal, sum(n * p for n, p in zip(normal, through, strict=True)))


def _sphere(radius: float, height: float) -> Quadric:
    """Around (0, height, 0)."""
    return Quadric((1.0, 1.0, 1.0), -2 * height, height * height - radius * radius)


def _tube(radius: float) -> Quadric:
    return Quadric((1.0, 0.0, 1.0), 0.0, -radius * radius)


Parts = tuple[tuple[Primitive, ...], ...]


def _ball(x: float, y: float, z: float) -> Parts:
    return ((_sphere(x, 0.0),),)


def _box(x: float, y: float, z: float) -> Parts:
    return ((Slab(0, x), Slab(1, y), Slab(2, z)),)


def _cylinder(x: float, y: float, z: float) -> Parts:
    return ((_tube(x), Slab(1, y)),)


def _cone(x: float, y: float, z: float) -> Parts:
    # x^2 + z^2 = k^2 (y_top - y)^2, where k is the radius over the height.
    k = (x / (2 * y)) ** 2
    return ((Quadric((1.0, -k, 1.0), 2 * k * y, -k * y * y), Slab(1, y)),)


def _capsule(x: float, y: float, z: float) -> Parts:
    middle = y - x
    return ((_tube(x), Slab(1, middle)), (_sphere(x, middle),), (_sphere(x, -middle),))


def _pyramid(x: float, y: float, z: float) -> Parts:
    apex = (0.0, y, 0.0)
    slopes = ((2 * y, x, 0.0), (-2 * y, x, 0.0), (0.0, z, 2 * y), (0.0, z, -2 * y))
    return ((Plane((0.0, -1.0, 0.0), y), *(_plane(*slope, apex) for slope in slopes)),)


def _dome(x: float, y: float, z: float) -> Parts:
    return ((_sphere(x, -y), Plane((0.0, -1.0, 0.0), y)),)


def _wedge(x: float, y: float, z: float) -> Parts:
    """A box cut from its upper edge on the left to its lower edge on the right."""
    return ((Slab(0, x), Slab(1, y), Slab(2, z), _plane(2 * y, 2 * x, 0, (0.0, 0.0, 0.0))),)


_PARTS: dict[str, Callable[[float, float, float], Parts]] = {
    "ball": _ball,
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "capsule": _capsule,
    "pyramid": _pyramid,
    "dome": _dome,
    "wedge": _wedge,
}
