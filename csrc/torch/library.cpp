// Registers the operators when this library is loaded, by a program of whatever language.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>
#include <torch/library.h>

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

const char* const kSchemas[] = {
#include "../fastrnn/ops/schemas.inc"
};

}  // namespace

TORCH_LIBRARY(fastrnn, m) {
  if (!built_for_this_torch()) return;
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
