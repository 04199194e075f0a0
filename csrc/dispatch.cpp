#include "dispatch.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>

#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#endif
#include "pages.h"
#include "plan.h"

namespace fastrnn {

extern const InstructionSet kBaseline;
#if defined(__x86_64__)
extern const InstructionSet kAvx2, kAvx512;
extern const Kernels<BFloat16> kAvx512Bf16;
extern const FrozenKernels<BFloat16> kFrozenBf16;
extern const FrozenKernels<int8_t> kFrozenInt8;
#endif

namespace {

std::vector<const InstructionSet*> runnable() {
  std::vector<const InstructionSet*> sets = {&kBaseline};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets.push_back(&kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      sets.push_back(&kAvx512);
      static const InstructionSet with_bfloat16 = [] {
        InstructionSet set = kAvx512;
        set.name = "avx512bf16";
        set.bf16 = &kAvx512Bf16;
        set.frozen_bf16 = kFrozenBf16;
        set.frozen_int8 = kFrozenInt8;
        return set;
      }();
      if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) sets.push_back(&with_bfloat16);
    }
  }
#endif
  return sets;
}

const InstructionSet* find_isa(const std::string& name) {
  std::string known;
  for (const InstructionSet* set : runnable()) {
    if (name == set->name) return set;
    known += known.empty() ? set->name : std::string(", ") + set->name;
  }
  throw std::invalid_argument("fastrnn: instruction set '" + name + "' was asked for, this build and processor run " +
                              known);
}

const InstructionSet*& current() {
  static const InstructionSet* set = [] {
    const char* forced = std::getenv("FASTRNN_CPU_ISA");
    return forced && *forced ? find_isa(forced) : runnable().back();
  }();
  return set;
}

// Memory that a thread keeps between its calls: fresh pages cost 0.4 us per KB, more than the work of a short layer.
class Workspace {
 public:
  void* at_least(size_t bytes) {
    if (bytes > size_) {
      free();
      data_ = ::operator new(bytes, std::align_val_t(kAlign));
      size_ = bytes;
      prefer_large_pages(data_, bytes);
    }
    return data_;
  }
  void give_back_large() {
    if (size_ > kKept) free();
  }
  ~Workspace() { free(); }

 private:
  static constexpr size_t kAlign = 64, kKept = size_t(64) << 20;

  void free() {
    ::operator delete(data_, std::align_val_t(kAlign));
    data_ = nullptr, size_ = 0;
  }

  void* data_ = nullptr;
  size_t size_ = 0;
};

thread_local Workspace workspace;

#ifdef _OPENMP
// In a forked child the thread that forked would wait for ever for the workers that GNU's run-time has kept for it in
// the parent (https://gcc.gnu.org/legacy-ml/gcc-patches/2014-02/msg00813.html), in torch's operations as in a layer.
// They are sent home before it forks; both sides start new ones when they need them.
[[maybe_unused]] const int at_fork = pthread_atfork([] { omp_pause_resource_all(omp_pause_soft); }, nullptr, nullptr);
#endif

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

int usable_threads(int threads) {
#ifdef _OPENMP
  return omp_in_parallel() ? 1 : std::max(threads, 1);
#else
  (void)threads;
  return 1;
#endif
}

template <class T, class Args, class Size, class Run>
void run_layer(CellKind kind, const Args& args, int threads, Size size, Run run) {
  Plan plan = make_plan(instruction_set(), kind, args.sizes, sizeof(T), usable_threads(threads));
  for (;; plan = make_plan(instruction_set(), kind, args.sizes, sizeof(T), 1)) {
    char* memory = static_cast<char*>(workspace.at_least(size(kind, args, plan)));
    // Nobody waits at those of a single thread.
    const bool alone = plan.threads == 1;
    std::vector<Place> places(alone ? 0 : plan.threads);
    std::vector<Barrier> barriers(alone ? 0 : 1 + plan.threads / plan.unit_parts);
    for (size_t i = 0; i < barriers.size(); ++i)
      barriers[i].places = places.data() + (i == 0 ? 0 : (i - 1) * plan.unit_parts);
    const bool done = run_together(plan.threads, [&](int rank) {
      const Team team{rank, plan.threads, barriers.data(), places.data() + rank};
      run(kind, args, plan, team, memory);
      // The run-time's own barrier behind this one spins for milliseconds without yielding.
      wait(team.barriers, team.size, team.place);
    });
    if (done) break;
  }
  workspace.give_back_large();
}

template <class T>
const Kernels<T>& kernels();
template <>
const Kernels<float>& kernels() {
  return instruction_set().f32;
}
template <>
const Kernels<double>& kernels() {
  return instruction_set().f64;
}
template <>
const Kernels<BFloat16>& kernels() {
  return *instruction_set().bf16;
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The best of several runs of work() -> amount, per second and summed over the threads.
template <class F>
double best_rate(int threads, F work) {
  double best = 0;
  for (int i = 0; i < 7; ++i) {
    std::vector<double> rates(threads, 0.0);
    std::vector<Place> places(threads);
    Barrier start_together;
    start_together.places = places.data();
    const bool ran = run_together(threads, [&](int rank) {
      wait(&start_together, threads, &places[rank]);
      const double start = seconds();
      const double amount = work(rank);
      rates[rank] = amount / (seconds() - start);
    });
    if (!ran)
      throw std::runtime_error("fastrnn: " + std::to_string(threads) +
                               " threads were asked for, the run-time gives fewer");
    double total = 0;
    for (double rate : rates) total += rate;
    best = std::max(best, total);
  }
  return best;
}

}  // namespace

const InstructionSet& instruction_set() { return *current(); }

std::vector<std::string> runnable_isas() {
  std::vector<std::string> names;
  for (const InstructionSet* set : runnable()) names.push_back(set->name);
  return names;
}

void force_isa(const std::string& name) { current() = find_isa(name); }

bool built_with_openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

template <class T>
void run_forward(CellKind kind, const ForwardArgs<T>& args, int threads) {
  run_layer<T>(kind, args, threads, kernels<T>().forward_workspace, kernels<T>().forward);
}

template <class T>
void run_backward(CellKind kind, const BackwardArgs<T>& args, int threads) {
  run_layer<T>(kind, args, threads, kernels<T>().backward_workspace, kernels<T>().backward);
}

template void run_forward(CellKind, const ForwardArgs<float>&, int);
template void run_forward(CellKind, const ForwardArgs<double>&, int);
template void run_backward(CellKind, const BackwardArgs<float>&, int);
template void run_backward(CellKind, const BackwardArgs<double>&, int);
template void run_forward(CellKind, const ForwardArgs<BFloat16>&, int);
template void run_backward(CellKind, const BackwardArgs<BFloat16>&, int);

template <>
const FrozenKernels<BFloat16>& frozen_kernels() {
  return instruction_set().frozen_bf16;
}
template <>
const FrozenKernels<int8_t>& frozen_kernels() {
  return instruction_set().frozen_int8;
}

template <class S>
void run_frozen(CellKind kind, const FrozenArgs& args, int threads) {
  run_layer<S>(kind, args, threads, frozen_kernels<S>().workspace, frozen_kernels<S>().forward);
}

template void run_frozen<BFloat16>(CellKind, const FrozenArgs&, int);
template void run_frozen<int8_t>(CellKind, const FrozenArgs&, int);

template <class T>
double peak_flops(int threads) {
  constexpr int64_t rounds = 2'000'000;
  return 2 * best_rate(usable_threads(threads), [](int) { return kernels<T>().multiply_adds(rounds); });
}

template double peak_flops<float>(int);
template double peak_flops<double>(int);
template double peak_flops<BFloat16>(int);

double read_bandwidth(int64_t bytes, int threads) {
  threads = usable_threads(threads);
  const int64_t elements = std::max<int64_t>(bytes / sizeof(float), 1024);
  const int64_t rounds = std::max<int64_t>(1, (int64_t(64) << 20) / (elements * sizeof(float)));
  std::vector<std::vector<float>> buffers(threads, std::vector<float>(elements, 1.0f));
  return best_rate(threads, [&](int rank) {
    instruction_set().read(buffers[rank].data(), elements, rounds);
    return double(elements) * sizeof(float) * rounds;
  });
}

}  // namespace fastrnn
