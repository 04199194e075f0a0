#include "runtime/run.h"

#include <algorithm>
#include <vector>

#include "runtime/isa.h"
#include "runtime/plan.h"
#include "runtime/threads.h"
#include "runtime/workspace.h"

namespace fastrnn {
namespace {

thread_local Workspace workspace;

// Q is what products take, whose size a plan goes by.
template <class Q, class Args, class Size, class Run>
void run_layer(CellKind kind, const Args& args, int threads, Size size, Run run) {
  Plan plan = make_plan(this_machine(), instruction_set(), kind, args.sizes, sizeof(Q), threads);
  for (;; plan = make_plan(this_machine(), instruction_set(), kind, args.sizes, sizeof(Q), 1)) {
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

// Each on one of the threads. False where the run-time gives fewer, and nothing was run.
template <class Q, class Args, class Size, class Run>
bool run_side_by_side(CellKind kind, std::span<const Args> layers, int threads, Size size, Run run) {
  const Plan plan = make_plan(this_machine(), instruction_set(), kind, layers[0].sizes, sizeof(Q), 1);
  // A size differs with what a layer is asked for, if at all.
  int64_t each = 0;
  for (const Args& args : layers) each = std::max(each, size(kind, args, plan));
  constexpr int64_t line = 64;
  each = (each + line - 1) / line * line;
  char* memory = static_cast<char*>(workspace.at_least(threads * each));
  const bool done = run_together(threads, [&](int rank) {
    for (size_t i = rank; i < layers.size(); i += threads)
      run(kind, layers[i], plan, Team{0, 1, nullptr, nullptr}, memory + rank * each);
  });
  workspace.give_back_large();
  return done;
}

template <class Q, class Args, class Size, class Run>
void run_layers(CellKind kind, std::span<const Args> layers, int threads, Size size, Run run) {
  threads = usable_threads(threads);
  const int teams =
      threads_for(this_machine(), instruction_set(), kind, layers[0].sizes, sizeof(Q), int64_t(layers.size()), threads);
  if (teams > 1 && layers.size() >= size_t(teams) && run_side_by_side<Q>(kind, layers, teams, size, run)) return;
  for (const Args& args : layers) run_layer<Q>(kind, args, threads, size, run);
}

}  // namespace

template <class T, class Q>
void run_forward(CellKind kind, std::span<const ForwardArgs<T>> layers, int threads) {
  run_layers<Q>(kind, layers, threads, kernels<T, Q>().forward_workspace, kernels<T, Q>().forward);
}

template <class T, class Q>
void run_backward(CellKind kind, std::span<const BackwardArgs<T>> layers, int threads) {
  run_layers<Q>(kind, layers, threads, kernels<T, Q>().backward_workspace, kernels<T, Q>().backward);
}

template void run_forward<float>(CellKind, std::span<const ForwardArgs<float>>, int);
template void run_forward<float, BFloat16>(CellKind, std::span<const ForwardArgs<float>>, int);
template void run_forward<double>(CellKind, std::span<const ForwardArgs<double>>, int);
template void run_forward<BFloat16>(CellKind, std::span<const ForwardArgs<BFloat16>>, int);
template void run_backward<float>(CellKind, std::span<const BackwardArgs<float>>, int);
template void run_backward<float, BFloat16>(CellKind, std::span<const BackwardArgs<float>>, int);
template void run_backward<double>(CellKind, std::span<const BackwardArgs<double>>, int);
template void run_backward<BFloat16>(CellKind, std::span<const BackwardArgs<BFloat16>>, int);

template <class S>
void run_frozen(CellKind kind, const FrozenArgs& args, int threads) {
  run_layer<S>(kind, args, usable_threads(threads), frozen_kernels<S>().workspace, frozen_kernels<S>().forward);
}

template void run_frozen<BFloat16>(CellKind, const FrozenArgs&, int);
template void run_frozen<int8_t>(CellKind, const FrozenArgs&, int);

}  // namespace fastrnn
