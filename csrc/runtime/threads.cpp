#include "runtime/threads.h"

#include <algorithm>

#if defined(FASTRNN_STD_THREADS)
#include <thread>
#include <vector>
#elif !defined(__APPLE__)
#define FASTRNN_OPENMP
#include <dlfcn.h>
#include <pthread.h>

extern "C" {
void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);
int omp_get_max_threads();
int omp_get_num_threads();
int omp_get_thread_num();
int omp_in_parallel();
int omp_pause_resource_all(int kind);
void omp_set_num_threads(int threads);
}
#endif

namespace fastrnn {

#if defined(FASTRNN_OPENMP)
namespace {

// In a forked child the thread that forked would wait for ever for the workers that GNU's run-time has kept for it in
// the parent (https://gcc.gnu.org/legacy-ml/gcc-patches/2014-02/msg00813.html), in torch's operations as in a layer.
// They are sent home before it forks; both sides start new ones when they need them.
constexpr int pause_soft = 1;  // omp_pause_soft
[[maybe_unused]] const int at_fork = pthread_atfork([] { omp_pause_resource_all(pause_soft); }, nullptr, nullptr);

struct Region {
  void (*body)(const void*, int);
  const void* context;
  int threads;
  bool complete = false;
};

void run_region(void* data) {
  Region& region = *static_cast<Region*>(data);
  if (omp_get_num_threads() != region.threads) return;
  const int rank = omp_get_thread_num();
  region.body(region.context, rank);
  if (rank == 0) region.complete = true;
}

}  // namespace

std::string openmp_library() {
  Dl_info info;
  return dladdr(reinterpret_cast<void*>(&GOMP_parallel), &info) && info.dli_fname ? info.dli_fname : "of the program";
}

bool asks_this_openmp(int (*max_threads)()) {
  max_threads();  // torch's sets the number when it is first asked
  const int before = omp_get_max_threads();
  omp_set_num_threads(before + 1);
  const bool asks = max_threads() == before + 1;
  omp_set_num_threads(before);
  return asks;
}

int usable_threads(int threads) { return omp_in_parallel() ? 1 : std::max(threads, 1); }

bool run_together(int threads, void (*body)(const void*, int), const void* context) noexcept {
  if (threads == 1) {
    body(context, 0);
    return true;
  }
  Region region{body, context, threads};
  GOMP_parallel(run_region, &region, threads, 0);
  return region.complete;
}

#else

std::string openmp_library() { return {}; }

bool asks_this_openmp(int (*)()) { return true; }

#if defined(FASTRNN_STD_THREADS)
int usable_threads(int threads) { return std::max(threads, 1); }
#else
int usable_threads(int) { return 1; }
#endif

bool run_together(int threads, void (*body)(const void*, int), const void* context) noexcept {
#if defined(FASTRNN_STD_THREADS)
  std::vector<std::thread> others;
  for (int rank = 1; rank < threads; ++rank) others.emplace_back(body, context, rank);
  body(context, 0);
  for (std::thread& other : others) other.join();
  return true;
#else
  if (threads == 1) body(context, 0);
  return threads == 1;
#endif
}

#endif

}  // namespace fastrnn
