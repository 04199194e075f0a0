// Tensors as the kernels read and write them.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/MaybeOwned.h>
#include <c10/util/SmallVector.h>

#include <type_traits>

#include "kernels/arguments.h"

namespace fastrnn {

// Sums, gates and the cell's own state of 16-bit tensors are float32, rounded once on the way out.
at::ScalarType real_type(const at::Tensor& x);
// What the kernels are given as x, h, y and the weights: float32 for 16-bit tensors, unless it multiplies them faster.
at::ScalarType kernel_type(const at::Tensor& x);

// Whether the products of a layer on tensors of this type take float32 rounded to bfloat16: where
// torch.backends.mkldnn.rnn.fp32_precision allows it, and it is faster. Sums, gates and states stay float32.
bool rounds_products(at::ScalarType type, const Sizes& sizes);

// Asked before torch is: a conversion that does nothing costs 0.3 us.
at::Tensor convert(const at::Tensor& t, at::ScalarType type);

// A tensor as the kernels read it: the given one, or a copy. The given one outlives the call.
using Ready = c10::MaybeOwned<at::Tensor>;
Ready prepare(const at::Tensor& t, at::ScalarType type);
using ReadyList = c10::SmallVector<Ready, 10>;
ReadyList prepare(at::TensorList list, at::ScalarType type);
// h, which products take, and the state that only the cell sees.
ReadyList prepare_states(at::TensorList state, at::ScalarType type, at::ScalarType real);

// Without the dispatcher, which takes longer than the allocation.
at::Tensor allocate(at::IntArrayRef shape, at::ScalarType type);
at::Tensor zeros(at::IntArrayRef shape, at::ScalarType type);
// Of the prepared tensor or, where there is none, of zeros.
at::Tensor copy_of(const at::Tensor* prepared, at::IntArrayRef shape, at::ScalarType type);

// The kernels have their own name for torch's type.
template <class T>
using InTorch = std::conditional_t<std::is_same_v<T, BFloat16>, at::BFloat16, T>;

// Null for a tensor that is not there.
template <class T>
const T* const_pointer(const at::Tensor& t) {
  return t.defined() ? reinterpret_cast<const T*>(t.const_data_ptr<InTorch<T>>()) : nullptr;
}
template <class T>
T* pointer(at::Tensor& t) {
  return t.defined() ? reinterpret_cast<T*>(t.mutable_data_ptr<InTorch<T>>()) : nullptr;
}

// f.operator()<T, Q>() for tensors of T whose products take Q.
template <class F>
void with_types(at::ScalarType type, bool rounds, F&& f) {
  if (type == at::kDouble)
    f.template operator()<double, double>();
  else if (type == at::kBFloat16)
    f.template operator()<BFloat16, BFloat16>();
  else if (rounds)
    f.template operator()<float, BFloat16>();
  else
    f.template operator()<float, float>();
}

}  // namespace fastrnn
