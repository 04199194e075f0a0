// The threads of OpenMP's run-time, which torch has started already, or the caller's alone.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fastrnn {

bool built_with_openmp();

// Of the threads that were asked for: one inside a parallel region, or without OpenMP.
int usable_threads(int threads);

// body(rank) on `threads` threads at once, or false where the run-time gives fewer and nothing was run.
template <class F>
bool run_together(int threads, F&& body) {
  if (threads == 1) {
    body(0);
    return true;
  }
  bool complete = false;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  {
    if (omp_get_num_threads() == threads) {
      body(omp_get_thread_num());
      if (omp_get_thread_num() == 0) complete = true;
    }
  }
#endif
  return complete;
}

}  // namespace fastrnn
