#include "runtime/run.h"

#include <vector>

#include "runtime/isa.h"
#include "runtime/plan.h"
#include "runtime/threads.h"
#include "runtime/workspace.h"

namespace fastrnn {
namespace {

thread_local Workspace workspace;

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

}  // namespace

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

template <class S>
void run_frozen(CellKind kind, const FrozenArgs& args, int threads) {
  run_layer<S>(kind, args, threads, frozen_kernels<S>().workspace, frozen_kernels<S>().forward);
}

template void run_frozen<BFloat16>(CellKind, const FrozenArgs&, int);
template void run_frozen<int8_t>(CellKind, const FrozenArgs&, int);

}  // namespace fastrnn
