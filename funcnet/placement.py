"""Where arrays live; so far one device, and how much memory it has."""

import jax


def memory() -> int | None:
    """Bytes of memory of the default device, or None where data costs nothing to keep there.

    On CPU the device's memory is the host's, and the answer is None.
    """
    device = jax.local_devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return None if stats is None else int(stats["bytes_limit"])
