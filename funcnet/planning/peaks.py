"""What chips can do at most, as their makers publish it; the one table that rooflines stand on."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Peaks:
    """The rates that no program exceeds on one device.

    Attributes:
        flops: operations a second of dense matrix products, by dtype as XLA writes it: `bf16`,
            `f32`, and `f32 highest` for `jax.lax.Precision.HIGHEST`. One that is not listed is
            taken to be as slow as the slowest.
        memory: bytes a second from and to the main memory.
        network: bytes a second that a device sends, over all its links together.
        bytes: the main memory that a program may use.
        source: where the numbers stand.

    Example:
        >>> import funcnet as fn
        >>> from funcnet.planning import Peaks
        >>> laptop = Peaks({"f32": 2e11}, memory=4e10, bytes=16 * 2**30, source="measured")
        >>> laptop.seconds({"f32": 4e11})
        2.0
    """

    flops: Mapping[str, float]
    memory: float
    network: float | None = None
    bytes: int | None = None
    source: str = ""

    def seconds(self, flops: Mapping[str, float]) -> float:
        """The least seconds for operations by dtype."""
        slowest = min(self.flops.values())
        return sum(count / self.flops.get(dtype, slowest) for dtype, count in flops.items())


def tpu(tera: float, giga: float, links: float, usable: float, source: str) -> Peaks:
    """A TPU's rates: of dense bfloat16, of which a product in float32 takes several."""
    bf16 = tera * 1e12
    rates = {"bf16": bf16, "f32": bf16, "f32 high": bf16 / 3, "f32 highest": bf16 / 6}
    return Peaks(rates, giga * 1e9, links * 1e9, int(usable * 2**30), source)


def gpu(bf16: float, tf32: float, f32: float, giga: float, links: float, gb: float) -> Peaks:
    """An NVIDIA GPU's rates, those of sparse matrices left out."""
    rates = {"bf16": bf16, "f16": bf16, "f32": tf32, "f32 highest": f32}
    tera = {dtype: rate * 1e12 for dtype, rate in rates.items()}
    return Peaks(tera, giga * 1e9, links * 1e9, int(gb * 1e9), "NVIDIA's data sheet, SXM, dense")


CLOUD = "https://cloud.google.com/tpu/docs/"

PEAKS: dict[str, Peaks] = {
    "TPU v4": tpu(275, 1200, 300, 30.75, f"{CLOUD}v4; links: Jouppi et al., 2023, table 4"),
    "TPU v5 lite": tpu(197, 819, 200, 15.75, f"{CLOUD}v5e"),
    "TPU v5": tpu(459, 2765, 600, 95.73, f"{CLOUD}v5p"),
    "TPU v6 lite": tpu(918, 1638, 400, 31.24, f"{CLOUD}v6e"),
    "NVIDIA A100-SXM4-80GB": gpu(312, 156, 19.5, 2039, 300, 80),
    "NVIDIA H100 80GB HBM3": gpu(989.4, 494.7, 66.9, 3350, 450, 80),
    "NVIDIA H200": gpu(989.4, 494.7, 66.9, 4800, 450, 141),
}
"""By `device.device_kind`: v5e is `TPU v5 lite`, v5p is `TPU v5`, v6e is `TPU v6 lite`.

Links count in one direction, all of a chip's together: half of what is published where that is said
to be bidirectional. The memory of a TPU is what its compiler says is available, a little less than
what is published (16, 95, 32 and 32 GB). A product in float32 is one of bfloat16 on a TPU unless
`jax.lax.Precision` asks for three (`HIGH`) or six (`HIGHEST`), and one of TensorFloat-32 on a GPU.
"""


def peaks_of(device: Any) -> Peaks | None:
    """The rates of a device; None where the table has none."""
    return PEAKS.get(device.device_kind)
