// The threads of OpenMP's run-time, which torch has started already, or the caller's alone.
//
// With FASTRNN_STD_THREADS, where OpenMP is off, they are new ones of the C++ library at every call. ThreadSanitizer
// understands these; of OpenMP's run-time it would not see how its threads wait for one another.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#elif defined(FASTRNN_STD_THREADS)
#include <thread>
#include <vector>
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
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
  {
    if (omp_get_num_threads() == threads) {
      body(omp_get_thread_num());
      if (omp_get_thread_num() == 0) complete = true;
    }
  }
#elif defined(FASTRNN_STD_THREADS)
  std::vector<std::thread> others;
  for (int rank = 1; rank < threads; ++rank) others.emplace_back(body, rank);
  body(0);
  for (std::thread& other : others) other.join();
  complete = true;
#endif
  return complete;
}

}  // namespace fastrnn
