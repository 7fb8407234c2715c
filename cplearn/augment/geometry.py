"""Transforms that move or mix pixels: crops, flip, affine map, blur."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.augment.transform import Params, Transform, between, change_chosen, power

_TRIES = 10
_MARGIN = 2  # Taps of an interpolation that may fall outside the image on either side; their weight is zero.


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """A crop of random area and aspect ratio, enlarged to the size of the image.

    Sampled like torchvision's: area uniform in `scale` (fractions of the image), logarithm of the ratio uniform, ten
    tries for a box that fits, then the largest box whose ratio is in the range. Boxes lie on whole pixels. A crop is
    never larger than its image, so pixels are only ever interpolated, never averaged; the bicubic kernel is that of PIL
    and of torchvision with antialias (a = -0.5, weights renormalised at the crop's border), and overshoots are clipped.
    Strength s uses the ranges `scale` ** s and `ratio` ** s.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    uniforms: ClassVar[int] = 2 * _TRIES + 2

    def side(self, size: int) -> int:
        """Side in pixels of what a crop of images of `size` pixels becomes."""
        return size

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """`box` (n, 4): top, left, height and width of the crop in pixels."""
        return {"box": self.boxes(u, strength, u.new_full((len(u), 2), size))}

    def boxes(self, u: Tensor, strength: Tensor | float, extents: Tensor) -> Tensor:
        """Boxes (n, 4) as in `parameters`, for images of any shape: `extents` (n, 2) are their heights and widths."""
        areas, ratios, place = u.split([_TRIES, _TRIES, 2], 1)
        extents, strength = extents.to(u.dtype), torch.as_tensor(strength, dtype=u.dtype)
        side = extents.prod(1, keepdim=True).sqrt() * between(areas, *power(self.scale, strength)).sqrt()
        # Square root of the ratio, so that height times width is the area.
        stretch = torch.exp(between(ratios, *(math.log(bound) / 2 for bound in self.ratio)) * strength)
        tries = torch.stack([side / stretch, side * stretch], 2).round()
        fits = ((tries >= 1) & (tries <= extents[:, None])).all(2)
        first = fits.to(torch.uint8).argmax(1)
        extent = tries.gather(1, first[:, None, None].expand(-1, 1, 2)).squeeze(1)
        least, most = power(self.ratio, strength)
        limits = torch.cat([extents[:, 1:] / least, extents[:, :1] * most], 1).round()
        extent = torch.where(fits.any(1, keepdim=True), extent, torch.minimum(extents, limits))
        return torch.cat([(place * (extents + 1 - extent)).floor(), extent], 1)

    def apply(self, images: Tensor, params: Params) -> Tensor:
        box = params["box"].to(images.dtype)
        weights = self._weights(box[:, :2], box[:, 2:], images.shape[-1])
        return _resample(images, weights[:, 0], weights[:, 1]).clamp_(0, 1)

    def _weights(self, start: Tensor, length: Tensor, size: int) -> Tensor:
        """Interpolation matrices (n, 2, out, in), vertical and horizontal; start and length of the crop are (n, 2)."""
        start, length = start[..., None], length[..., None]
        # Centre of each pixel of the output, (n, 2, out), on an axis where pixel j of the crop has its centre at j.
        centre = (torch.arange(size, device=start.device) + 0.5) * (length / size) - 0.5
        before = centre.floor()
        taps = before + torch.arange(-1, 3, device=start.device)[:, None, None, None]
        weight = self._kernel(centre - before) * ((taps >= 0) & (taps < length))
        weight = weight / weight.sum(0)
        # Every tap has a column of its own, so scattering is deterministic.
        columns = (taps + (start + _MARGIN)).long()
        matrix = weight.new_zeros(*centre.shape, size + 2 * _MARGIN)
        matrix.scatter_(-1, columns.movedim(0, -1), weight.movedim(0, -1))
        return matrix[..., _MARGIN:-_MARGIN]

    def _kernel(self, t: Tensor) -> Tensor:
        """Weights of the pixels at -1, 0, 1 and 2 for a point at `t` in [0, 1), stacked in front."""
        if self.interpolation == "bilinear":
            zero = torch.zeros_like(t)
            return torch.stack([zero, 1 - t, t, zero])
        near, far = torch.stack([t, 1 - t]), torch.stack([1 + t, 2 - t])
        near = (1.5 * near - 2.5) * near**2 + 1
        far = ((-0.5 * far + 2.5) * far - 4) * far + 2
        return torch.stack([far[0], near[0], near[1], far[1]])


@dataclass(frozen=True)
class LocalCrop(RandomResizedCrop):
    """A `RandomResizedCrop` to `size` x `size` pixels, bicubic: the local crops of multi-crop (Caron et al. 2020).

    A crop may be larger than `size`; its pixels are then averaged, as PIL and torchvision with antialias do.
    """

    size: int = 96

    def side(self, size: int) -> int:
        return self.size

    def _weights(self, start: Tensor, length: Tensor, size: int) -> Tensor:
        """As in `RandomResizedCrop`, with a kernel that grows with the reduction; (n, 2, self.size, size)."""
        start, length = start[..., None, None], length[..., None, None]
        step = length / self.size
        pixel = torch.arange(size, device=start.device)
        centre = start + (torch.arange(self.size, device=start.device)[:, None] + 0.5) * step - 0.5
        t = ((pixel - centre) / step.clamp_min(1)).abs()
        near = (1.5 * t - 2.5) * t**2 + 1
        far = ((-0.5 * t + 2.5) * t - 4) * t + 2
        weight = torch.where(t < 1, near, torch.where(t < 2, far, 0))
        weight = weight * ((pixel >= start) & (pixel < start + length))
        return weight / weight.sum(-1, keepdim=True)


@dataclass(frozen=True)
class RandomCrop(Transform):
    """The image padded by `padding` reflected pixels, at strength s by round(s * `padding`), and cropped back to its
    size: a shift by whole pixels."""

    padding: int = 4
    uniforms: ClassVar[int] = 2

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """`shift` (n, 2): rows and columns by which the window moves down and right, at most the padding."""
        padding = (strength * self.padding).round()
        return {"shift": ((u * (2 * padding + 1)).floor() - padding).long()}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        size = images.shape[-1]
        source = _reflect(torch.arange(size, device=images.device) + params["shift"][..., None], size)
        pixels = source[:, 0, :, None] * size + source[:, 1, None, :]
        flat = images.flatten(2)
        return flat.gather(2, pixels.flatten(1)[:, None].expand_as(flat)).view_as(images)


@dataclass(frozen=True)
class HorizontalFlip(Transform):
    """Left and right exchanged with probability `p`; strength s < 1 scales it, as there is no range: min(s, 1) * p."""

    p: float = 0.5

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """`chosen` (n,) bool."""
        return {"chosen": u[:, 0] < self.p * strength.clamp_max(1)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        return change_chosen(images, params["chosen"], lambda x: x.flip(-1))


@dataclass(frozen=True)
class RandomAffine(Transform):
    """Rotation, shift, scaling and horizontal shear about the centre, bilinear; what comes from outside is black.

    `degrees` and `shear` (degrees) are half-widths, as is `translate` (a fraction of the size, not rounded to pixels as
    in torchvision); `scale` is a range. Strength s multiplies the half-widths and uses the range `scale` ** s.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    uniforms: ClassVar[int] = 5

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """`angle`, `shear` (n,) in degrees, `translate` (n, 2) right and down, of the size, `scale` (n,)."""
        signed = (2 * u - 1) * strength
        return {
            "angle": signed[:, 0] * self.degrees,
            "translate": signed[:, 1:3] * self.translate,
            "shear": signed[:, 3] * self.shear,
            "scale": between(u[:, 4], *power(self.scale, strength)),
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        angle, shear = (torch.deg2rad(params[name].to(images.dtype)) for name in ("angle", "shear"))
        scale, translate = params["scale"].to(images.dtype), params["translate"].to(images.dtype)
        cos, sin, tan = angle.cos(), angle.sin(), shear.tan()
        # The inverse of scale * rotation * shear takes a pixel of the output to its source.
        rows = [cos - sin * tan, sin + cos * tan, -sin, cos]
        inverse = torch.stack(rows, 1).view(-1, 2, 2) / scale[:, None, None]
        # affine_grid's coordinates run from -1 to 1: a shift by the size is a shift by 2.
        offset = -2 * inverse @ translate[..., None]
        grid = F.affine_grid(torch.cat([inverse, offset], 2), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp_(0, 1)


@dataclass(frozen=True)
class GaussianBlur(Transform):
    """With probability `p`, a blur whose standard deviation in pixels is uniform in `sigma`; borders are reflected.

    The kernel covers 2 * `radius` + 1 pixels. Strength s uses the range s * `sigma`.
    """

    radius: int = 1
    sigma: tuple[float, float] = (0.1, 2.0)
    p: float = 0.5
    uniforms: ClassVar[int] = 2

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """`chosen` (n,) bool and `sigma` (n,) in pixels."""
        return {"chosen": u[:, 0] < self.p, "sigma": between(u[:, 1], *self.sigma) * strength}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        return change_chosen(images, params["chosen"], self._blur, params["sigma"])

    def _blur(self, images: Tensor, sigma: Tensor) -> Tensor:
        size = images.shape[-1]
        offsets = torch.arange(-self.radius, self.radius + 1, device=images.device)
        # A vanishing sigma leaves the middle tap alone; 0 / 0 would not.
        exponent = -0.5 * (offsets / sigma.to(images.dtype).clamp_min(0.01)[:, None]) ** 2
        kernel = exponent.softmax(1)
        positions = torch.arange(size, device=images.device)
        source = _reflect(positions[:, None] + offsets, size)
        # (out, tap, in): which pixel each tap of each output reads; reflected taps share pixels and add up.
        reads = (source[..., None] == positions).to(images.dtype)
        matrix = torch.einsum("nt,oti->noi", kernel, reads)
        return _resample(images, matrix, matrix).clamp_(0, 1)


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns^T for images (n, C, H, W) and matrices (n, out, in) of each image: several times quicker
    than gathering pixels, as `grid_sample` does."""
    along_rows = torch.bmm(images.flatten(1, 2), columns.transpose(1, 2)).unflatten(1, images.shape[1:3])
    return rows[:, None] @ along_rows


def _reflect(index: Tensor, size: int) -> Tensor:
    """Whole-numbered positions on an endless line to pixels 0..size-1, mirrored about the first and last pixel."""
    last = size - 1
    return last - (last - index.remainder(2 * last)).abs()
