// The Python module fastrnn._C.
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/record_function.h>
#include <c10/util/SmallVector.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>

#include "dispatch.h"
#include "operators.h"
#include "plan.h"

namespace fastrnn {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// A strided CPU tensor that no subclass, wrapper or transform stands behind.
bool is_plain(const Tensor& t) {
  return t.is_cpu() && t.layout() == at::kStrided && !t.is_neg() && !at::isTensorSubclassLike(t);
}

bool is_plain_tensor(const pybind11::handle& object) {
  return THPVariable_CheckExact(object.ptr()) && is_plain(THPVariable_Unpack(object.ptr()));
}

// Whether a mode, a transform or a tracer wants to see the operators that are called.
bool operators_are_observed() {
  const c10::impl::LocalDispatchKeySet keys = c10::impl::tls_local_dispatch_key_set();
  return at::impl::torch_function_mode_enabled() || c10::impl::TorchDispatchModeTLS::any_modes_set() ||
         keys.included_.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         keys.included_.has(c10::DispatchKey::Tracer);
}

// Tensors of a Python sequence, or nothing where one of them is not plain.
std::optional<c10::SmallVector<Tensor, 5>> plain_tensors(const pybind11::sequence& list) {
  c10::SmallVector<Tensor, 5> out;
  for (const pybind11::handle item : list) {
    if (!is_plain_tensor(item)) return std::nullopt;
    out.push_back(THPVariable_Unpack(item.ptr()));
  }
  return out;
}

pybind11::object wrap(const Tensor& t) { return pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(t)); }

// layer_forward without gradients and without the dispatcher, which takes 4 us to convert an operator's arguments. A
// two-dimensional x without batch_sizes is one step, with states [B, P]. Gives None where the operator is needed.
pybind11::object infer(const pybind11::object& x_object, const pybind11::sequence& state,
                       const pybind11::sequence& weights, const pybind11::object& batch_sizes, std::string_view cell,
                       int64_t directions, bool has_bias, bool batch_first) {
  if (operators_are_observed() || !is_plain_tensor(x_object)) return pybind11::none();
  if (!batch_sizes.is_none() && !is_plain_tensor(batch_sizes)) return pybind11::none();
  const auto tensors = plain_tensors(weights);
  auto initial = plain_tensors(state);
  if (!tensors || !initial) return pybind11::none();
  Tensor x = THPVariable_Unpack(x_object.ptr());
  std::optional<Tensor> sizes;
  if (!batch_sizes.is_none()) sizes = THPVariable_Unpack(batch_sizes.ptr());
  const bool one_step = x.dim() == 2 && !sizes;

  std::tuple<Tensor, Tensors, Tensor> result;
  {
    const pybind11::gil_scoped_release release;
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    RECORD_FUNCTION("fastrnn::layer_forward", c10::ArrayRef<const c10::IValue>{});
    if (one_step) {
      x = x.unsqueeze(0);
      for (Tensor& s : *initial) s = s.unsqueeze(0);
    }
    result = layer_forward(x, *initial, *tensors, sizes, cell, directions, has_bias, batch_first, false);
    if (one_step)
      for (Tensor& s : std::get<1>(result)) s = s.squeeze(0);
  }
  const Tensors& final_state = std::get<1>(result);
  pybind11::tuple wrapped(final_state.size());
  for (size_t i = 0; i < final_state.size(); ++i) wrapped[i] = wrap(final_state[i]);
  return pybind11::make_tuple(wrap(std::get<0>(result)), wrapped);
}

pybind11::dict plan(const std::string& cell, int64_t T, int64_t B, int64_t I, int64_t H, int64_t P, int64_t D,
                    int64_t rows, int element_bytes, int threads) {
  const Plan plan = make_plan(instruction_set(), cell_kind(cell), {T, B, I, H, P, D, rows}, element_bytes, threads);
  pybind11::dict out;
  out["threads"] = plan.threads;
  out["directions_at_once"] = plan.directions_at_once;
  out["row_parts"] = plan.row_parts;
  out["unit_parts"] = plan.unit_parts;
  out["products"] = plan.direct_forward ? "direct" : plan.hoist ? "hoisted" : "fused";
  out["backward_products"] = plan.direct_backward ? "direct" : "fused";
  return out;
}

}  // namespace
}  // namespace fastrnn

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Compiled CPU kernels of fastrnn.";
  m.def("isa", [] { return std::string(fastrnn::instruction_set().name); });
  m.def("multiplies_bfloat16", [] { return fastrnn::instruction_set().bf16 != nullptr; });
  m.def("cells", &fastrnn::cell_names);
  m.def("runnable_isas", &fastrnn::runnable_isas);
  m.def("force_isa", &fastrnn::force_isa, pybind11::arg("name"));
  m.def("built_with_openmp", &fastrnn::built_with_openmp);
  m.def("plan", &fastrnn::plan, pybind11::arg("cell"), pybind11::arg("T"), pybind11::arg("B"), pybind11::arg("I"),
        pybind11::arg("H"), pybind11::arg("P"), pybind11::arg("D"), pybind11::arg("rows"),
        pybind11::arg("element_bytes"), pybind11::arg("threads"));
  m.def("infer", &fastrnn::infer);
  m.def(
      "peak_flops",
      [](const std::string& dtype, int threads) {
        // What is not multiplied as it is, is in float32.
        if (dtype == "bfloat16" && fastrnn::instruction_set().bf16)
          return fastrnn::peak_flops<fastrnn::BFloat16>(threads);
        if (dtype == "float64") return fastrnn::peak_flops<double>(threads);
        TORCH_CHECK_VALUE(dtype == "float32" || dtype == "bfloat16" || dtype == "float16",
                          "expected float32, float64, bfloat16 or float16, got ", dtype);
        return fastrnn::peak_flops<float>(threads);
      },
      pybind11::arg("dtype"), pybind11::arg("threads"), pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("read_bandwidth", &fastrnn::read_bandwidth, pybind11::arg("bytes"), pybind11::arg("threads"),
        pybind11::call_guard<pybind11::gil_scoped_release>());
}
