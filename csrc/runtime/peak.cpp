#include "runtime/peak.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/isa.h"
#include "runtime/threads.h"

namespace fastrnn {
namespace {

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

template <class T>
double peak_flops(int threads) {
  constexpr int64_t rounds = 2'000'000;
  return 2 * best_rate(usable_threads(threads), [](int) { return kernels<T>().multiply_adds(rounds); });
}

template <class T>
double tile_flops(int threads) {
  constexpr int64_t rounds = 15'000;
  threads = usable_threads(threads);
  const auto rate = [&](bool tall) {
    return best_rate(threads, [tall](int) { return kernels<T>().tile_products(rounds, tall); });
  };
  return 2 * std::max(rate(false), rate(true));
}

template double peak_flops<float>(int);
template double peak_flops<double>(int);
template double peak_flops<BFloat16>(int);
template double tile_flops<float>(int);
template double tile_flops<double>(int);
template double tile_flops<BFloat16>(int);

double read_bandwidth(int64_t bytes, int threads) {
  threads = usable_threads(threads);
  const int64_t elements = std::max<int64_t>(bytes / sizeof(float), 1024);
  const int64_t rounds = std::max<int64_t>(1, (int64_t(64) << 20) / (elements * sizeof(float)));
  std::vector<std::vector<float>> buffers(threads, std::vector<float>(elements, 1.0f));
  return best_rate(threads, [&](int rank) {
    instruction_set().stream(buffers[rank].data(), elements, rounds);
    return double(elements) * sizeof(float) * rounds;
  });
}

}  // namespace fastrnn
