"""Settings of the whole suite: the compilation cache, strictness, fixtures that laws share."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# machine code as LLVM gives it at once: XLA's own passes are those that users get, and the
# suite takes half the time
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "")
).strip()

import jax
import pytest


@pytest.fixture(autouse=True)
def no_rank_promotion():
    """A vector against a matrix is an error: the library must say which axis it means."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """64-bit numbers for the length of a test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
