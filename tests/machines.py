"""Machines that plans are asked for, as data."""

from fastrnn import _C

K, M, G = 2**10, 2**20, 1e9


def machine(name, cores, l1, l2, l3, memory, flops, **others):
    """Caches are (bytes, cores that share one, bytes/s)."""
    facts = dict.fromkeys(_C.machine(), 0) | {"name": name, "cores": cores, "vector_bytes": 64}
    for level, cache in (("l1", l1), ("l2", l2), ("l3", l3)):
        facts |= dict(zip((f"{level}_bytes", f"{level}_cores", f"{level}_rate"), cache, strict=True))
    facts |= {"memory_rate": memory, "all_memory_rate": 4 * memory, "vector_float32": flops}
    facts |= {"vector_float64": flops / 2, "barrier_seconds": 1e-7, "thread_seconds": 4e-6}
    return facts | others


ZEN4 = machine(
    "Zen 4",
    2,
    (32 * K, 1, 220 * G),
    (1 * M, 1, 117 * G),
    (32 * M, 2, 72 * G),
    20 * G,
    116 * G,
    vector_bfloat16=232 * G,
    barrier_seconds=3e-8,
)
GRANITE_RAPIDS = machine(
    "Granite Rapids",
    2,
    (48 * K, 1, 205 * G),
    (2 * M, 1, 104 * G),
    (480 * M, 2, 30 * G),
    12 * G,
    241 * G,
    vector_bfloat16=122 * G,
    matrix_bfloat16=3500 * G,
    barrier_seconds=2e-7,
)
SKYLAKE = machine("Skylake", 16, (32 * K, 1, 180 * G), (1 * M, 1, 80 * G), (22 * M, 16, 20 * G), 10 * G, 180 * G)
LAPTOP = machine(
    "laptop", 4, (48 * K, 1, 200 * G), (512 * K, 1, 90 * G), (8 * M, 4, 40 * G), 12 * G, 112 * G, vector_bytes=32
)
GRAVITON = machine(
    "Graviton", 16, (64 * K, 1, 80 * G), (1 * M, 1, 40 * G), (32 * M, 16, 20 * G), 10 * G, 40 * G, vector_bytes=16
)
SERVER = machine("server", 64, (48 * K, 1, 205 * G), (2 * M, 1, 104 * G), (320 * M, 64, 30 * G), 12 * G, 241 * G)
# Nothing of a layer is in its caches, so that small ones run as large ones do elsewhere. Bfloat16 pays, as on a Zen 4.
WITHOUT_CACHES = GRANITE_RAPIDS | {
    "l1_bytes": 2 * K,
    "l2_bytes": 16 * K,
    "vector_bfloat16": 2 * GRANITE_RAPIDS["vector_float32"],
}
