#include "runtime/threads.h"

#include <algorithm>

#ifdef _OPENMP
#include <pthread.h>
#endif

namespace fastrnn {

#ifdef _OPENMP
namespace {

// In a forked child the thread that forked would wait for ever for the workers that GNU's run-time has kept for it in
// the parent (https://gcc.gnu.org/legacy-ml/gcc-patches/2014-02/msg00813.html), in torch's operations as in a layer.
// They are sent home before it forks; both sides start new ones when they need them.
[[maybe_unused]] const int at_fork = pthread_atfork([] { omp_pause_resource_all(omp_pause_soft); }, nullptr, nullptr);

}  // namespace
#endif

bool built_with_openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

int usable_threads(int threads) {
#if defined(_OPENMP)
  return omp_in_parallel() ? 1 : std::max(threads, 1);
#elif defined(FASTRNN_STD_THREADS)
  return std::max(threads, 1);
#else
  (void)threads;
  return 1;
#endif
}

}  // namespace fastrnn
