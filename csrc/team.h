// Threads that run one kernel together, and the barriers among them. No library is called except to yield, so that
// this header may be compiled for any instruction set.
#pragma once

#include <sched.h>

namespace fastrnn {

// Counts arrivals; the last one opens the next phase. Waiting spins for a few microseconds and then yields, so that
// more threads than cores still make progress.
struct alignas(64) Barrier {
  int arrived = 0;
  alignas(64) int phase = 0;
};

static inline void wait(Barrier* barrier, int members) {
  if (members == 1) return;
  const int phase = __atomic_load_n(&barrier->phase, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) == members) {
    __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&barrier->phase, phase + 1, __ATOMIC_RELEASE);
    return;
  }
  constexpr int spins = 2000;
  for (int i = 0; __atomic_load_n(&barrier->phase, __ATOMIC_ACQUIRE) == phase; ++i) {
    if (i > spins) sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }
}

// One member's view of its team: barriers[0] is for all, barriers[1 + i] for the i-th group of a plan. Null where
// nobody runs and only the workspace is measured.
struct Team {
  int rank;
  int size;
  Barrier* barriers;
};

}  // namespace fastrnn
