"""Augmentation: functions that make `f(key, x) -> x` on one example, for `fn.augment`.

An image is `(H, W, C)`, a sequence `(T, C)`. Each function is pure, can be compiled, and keeps
shape and dtype; a strength may be a traced array, as in a sweep, and strength 0 is the identity
exactly. Nothing is clipped. `mixup` and `cutmix` alone act on a batch: they mix its examples.
"""

from funcnet.data.augmentation.combine import apply_with, chain
from funcnet.data.augmentation.geometry import affine, crop, flip, rotate, scale, shift, time_shift
from funcnet.data.augmentation.masks import cutout, frequency_mask, time_mask
from funcnet.data.augmentation.pairs import cutmix, mixup
from funcnet.data.augmentation.values import brightness, color, contrast, hue, noise, saturation

__all__ = [
    "affine",
    "apply_with",
    "brightness",
    "chain",
    "color",
    "contrast",
    "crop",
    "cutmix",
    "cutout",
    "flip",
    "frequency_mask",
    "hue",
    "mixup",
    "noise",
    "rotate",
    "saturation",
    "scale",
    "shift",
    "time_mask",
    "time_shift",
]
