"""Settings of the whole suite: the compilation cache, strictness, fixtures that laws share."""

import gc
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


MAPS = Path("/proc/self/maps")
MANY_MAPS = 20_000  # Linux ends a process at 65,530; each compiled program takes some


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_given_up():
    """Thousands of tests compile in one process, which must not run out of memory maps."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """64-bit numbers for the length of a test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
