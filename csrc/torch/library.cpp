// Registers the operators when this library is loaded, by a program of whatever language.
#include <ATen/Parallel.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>
#include <torch/library.h>

#include "runtime/threads.h"
#include "torch/autocast.h"
#include "torch/autograd.h"
#include "torch/operators.h"

namespace {

// Between minor versions torch's binary interface changes: then nothing of this is registered.
bool built_for_this_torch() {
  constexpr int kMinor = 48;  // major and minor version stand above
  if (aoti_torch_abi_version() >> kMinor == TORCH_ABI_VERSION >> kMinor) return true;
  TORCH_WARN("fastrnn: this library was built for torch ", TORCH_VERSION, ", not for the one that loads it");
  return false;
}

// Two in one process spin for the same cores, and before a fork the threads of one of them alone are sent home.
void warn_of_another_openmp() {
  if (fastrnn::asks_this_openmp(at::get_num_threads)) return;
  TORCH_WARN("fastrnn: layers run on threads of the OpenMP run-time ", fastrnn::openmp_library(),
             ", torch's operations on those of another. This is slow, and processes forked from this one may wait for "
             "ever. Load torch first, preload no OpenMP run-time, and link none to fastrnn.");
}

const char* const kSchemas[] = {
#include "../fastrnn/ops/schemas.inc"
};

}  // namespace

TORCH_LIBRARY(fastrnn, m) {
  if (!built_for_this_torch()) return;
  warn_of_another_openmp();
  for (const char* schema : kSchemas) m.def(schema, {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  if (!built_for_this_torch()) return;
  m.impl("layer_forward", fastrnn::layer_forward);
  m.impl("layer_backward", fastrnn::layer_backward);
  m.impl("frozen_forward", fastrnn::frozen_forward);
}

TORCH_LIBRARY_IMPL(fastrnn, Autograd, m) {
  if (!built_for_this_torch()) return;
  m.impl("layer_forward", fastrnn::layer_forward_autograd);
  m.impl("layer_backward", fastrnn::layer_backward_autograd);
}

TORCH_LIBRARY_IMPL(fastrnn, AutocastCPU, m) {
  if (!built_for_this_torch()) return;
  m.impl("layer_forward", fastrnn::layer_forward_autocast);
}

TORCH_LIBRARY_IMPL(fastrnn, AutocastCUDA, m) {
  if (!built_for_this_torch()) return;
  m.impl("layer_forward", fastrnn::layer_forward_autocast);
}
