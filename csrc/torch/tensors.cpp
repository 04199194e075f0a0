#include "torch/tensors.h"

#include <ATen/EmptyTensor.h>

#include <cstring>

#include "runtime/isa.h"
#include "runtime/plan.h"
#include "torch/allocator.h"

namespace fastrnn {

using at::Tensor;

at::ScalarType real_type(const Tensor& x) {
  const at::ScalarType type = x.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf,
              "fastrnn: expected float32, float64, bfloat16 or float16, got ", type);
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

at::ScalarType kernel_type(const Tensor& x) {
  return x.scalar_type() == at::kBFloat16 && multiplies_bfloat16() ? at::kBFloat16 : real_type(x);
}

bool rounds_products(at::ScalarType type, const Sizes& sizes) {
  return type == at::kFloat && !takes_weights_as_they_lie(sizes) && multiplies_bfloat16() &&
         at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::RNN) ==
             at::Float32Precision::BF16;
}

Tensor convert(const Tensor& t, at::ScalarType type) { return t.scalar_type() == type ? t : t.to(type); }

Ready prepare(const Tensor& t, at::ScalarType type) {
  if (t.scalar_type() == type && t.is_contiguous()) return Ready::borrowed(t);
  return Ready::owned(convert(t, type).contiguous());
}

ReadyList prepare(at::TensorList list, at::ScalarType type) {
  ReadyList out;
  for (const Tensor& t : list) out.push_back(prepare(t, type));
  return out;
}

ReadyList prepare_states(at::TensorList state, at::ScalarType type, at::ScalarType real) {
  ReadyList out;
  for (const Tensor& t : state) out.push_back(prepare(t, out.empty() ? type : real));
  return out;
}

Tensor allocate(at::IntArrayRef shape, at::ScalarType type) {
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::CPU);
  return at::detail::empty_generic(shape, large_blocks(), keys, type, std::nullopt);
}

Tensor zeros(at::IntArrayRef shape, at::ScalarType type) {
  Tensor t = allocate(shape, type);
  if (t.nbytes() > 0) std::memset(t.mutable_data_ptr(), 0, t.nbytes());
  return t;
}

Tensor copy_of(const Tensor* prepared, at::IntArrayRef shape, at::ScalarType type) {
  if (!prepared) return zeros(shape, type);
  TORCH_CHECK(prepared->unsafeGetTensorImpl()->storage_initialized(),
              "fastrnn: expected tensors with memory, got one whose storage is freed");
  Tensor t = allocate(shape, type);
  if (t.nbytes() > 0) std::memcpy(t.mutable_data_ptr(), prepared->const_data_ptr(), t.nbytes());
  return t;
}

}  // namespace fastrnn
