// The Python module fastrnn._C.
#include <ATen/ATen.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "dispatch.h"
#include "infer.h"
#include "operators.h"
#include "plan.h"

namespace fastrnn {
namespace {

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
  m.def("infer_step", &fastrnn::infer_step);
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
