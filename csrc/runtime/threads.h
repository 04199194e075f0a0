// Threads that run a layer together: those of the OpenMP run-time in this process, which torch has started already.
//
// GNU's entry points are called by their names, which LLVM's and Intel's run-times have too. `#pragma omp` would need
// the run-time of the compiler, and beside torch's that is a second one: two pools that spin for the same cores, and
// one that nobody sends home before a fork. So nothing is compiled with -fopenmp. A program links a run-time, the
// extension none: its calls go where those of torch go.
//
// With FASTRNN_STD_THREADS they are new ones of the C++ library at every call. ThreadSanitizer understands these; of an
// OpenMP run-time it would not see how its threads wait for one another.
#pragma once

#include <string>

namespace fastrnn {

// The file of the run-time; empty where there is none and layers run on the caller's thread, as on Apple's systems.
std::string openmp_library();

// Whether max_threads is omp_get_max_threads of this run-time or of another.
bool asks_this_openmp(int (*max_threads)());

// Of the threads that were asked for: one inside a parallel region, or without OpenMP.
int usable_threads(int threads);

// body(context, rank) on `threads` threads at once, or false where the run-time gives fewer and nothing was run.
bool run_together(int threads, void (*body)(const void* context, int rank), const void* context) noexcept;

template <class F>
bool run_together(int threads, const F& body) {
  return run_together(threads, [](const void* f, int rank) { (*static_cast<const F*>(f))(rank); }, &body);
}

}  // namespace fastrnn
