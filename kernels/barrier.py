"""A barrier among the programs of a group, in two halves, so that work which concerns nobody else fits between them.

It needs no more than a counter that is zero at the launch; arrivals only ever increase it. All programs of the launch
must be resident at once, or the wait never ends.
"""

import triton
import triton.language as tl

# Integers from one group's counter to the next: a cache line of 128 bytes each, so that groups do not slow one another.
LINE = tl.constexpr(32)


@triton.jit
def arrive(counter):
    """Publishes what this program has stored."""
    tl.debug_barrier()  # all threads have stored before the one that counts releases
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter, arrivals):
    """Returns once ``arrivals`` have been counted; loads after it see what was published.

    The poll adds nothing: Triton has no acquiring load, and makes one of this. It stands in the condition of the loop
    because an atomic operation whose result is not used is dropped, and its ordering with it.
    """
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") - arrivals < 0:  # both may have passed 2^31 - 1
        pass
    tl.debug_barrier()
