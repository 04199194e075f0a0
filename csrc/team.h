// Threads that run one kernel together, and the barriers among them. No library is called except to yield, so that
// this header may be compiled for any instruction set.
#pragma once

#include <sched.h>

namespace fastrnn {

// Counts arrivals; the last one opens the next phase. Waiting spins, 50 us on Zen 4 and up to 100 us where a pause
// takes 140 cycles, hundreds of times what a barrier takes between running threads; then it yields, 0.5 us a turn, so
// that more threads than cores make progress. Beside a busy process a yield may give away a slice of milliseconds: with
// a tenth of the spins a layer split by units was slower there. It never sleeps: sleepers leave a core, so the
// scheduler puts the team on one, and layers of 100 steps took 5 to 15 times as long there instead of 3.
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
  for (int i = 0; __atomic_load_n(&barrier->phase, __ATOMIC_ACQUIRE) == phase;) {
    if (i < spins)
      ++i;
    else
      sched_yield();
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
