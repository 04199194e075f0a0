// Threads that run one kernel together, and the barriers among them. The library is only asked to yield and where a
// thread runs, so that this header may be compiled for any instruction set.
#pragma once

#include <sched.h>

namespace fastrnn {

// Where a member of a team was seen last.
struct alignas(64) Place {
  int cpu = -1;
};

// Counts arrivals; the last one opens the next phase.
//
// Waiting spins, 50 us on Zen 4 and up to 100 us where a pause takes 140 cycles, hundreds of times what a barrier takes
// between running threads; then it yields, 0.5 us a turn, so that more threads than cores make progress. It yields at
// once to a member that was seen on its own core and so cannot come while it spins: beside a busy process the scheduler
// puts a team of two on one core for a while. To others a yield may give away a slice of milliseconds. It never sleeps:
// sleepers leave a core, so the scheduler puts the team on one, and layers of 100 steps took 5 to 15 times as long.
struct alignas(64) Barrier {
  int arrived = 0;
  const Place* places = nullptr;  // of the members
  alignas(64) int phase = 0;
};

static inline int current_cpu() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

static inline bool shares_core(const Barrier* barrier, int members, const Place* mine) {
  for (const Place* other = barrier->places; other < barrier->places + members; ++other)
    if (other != mine && mine->cpu >= 0 && __atomic_load_n(&other->cpu, __ATOMIC_RELAXED) == mine->cpu) return true;
  return false;
}

static inline void wait(Barrier* barrier, int members, Place* mine) {
  if (members == 1) return;
  const int phase = __atomic_load_n(&barrier->phase, __ATOMIC_RELAXED);
  const int cpu = current_cpu();
  if (cpu != mine->cpu) __atomic_store_n(&mine->cpu, cpu, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) == members) {
    __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&barrier->phase, phase + 1, __ATOMIC_RELEASE);
    return;
  }
  constexpr int spins = 2000, spins_between_looks = 64;
  for (int i = 0; __atomic_load_n(&barrier->phase, __ATOMIC_ACQUIRE) == phase;) {
    if (i >= spins || (i % spins_between_looks == spins_between_looks - 1 && shares_core(barrier, members, mine)))
      sched_yield();
    if (i < spins) ++i;
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
  Place* place;  // its own
};

}  // namespace fastrnn
