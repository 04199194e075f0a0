// The Python module fastrnn._C.
#include <ATen/ATen.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include "python/call.h"
#include "runtime/isa.h"
#include "runtime/peak.h"
#include "runtime/plan.h"
#include "runtime/threads.h"
#include "torch/checked_layer.h"
#include "torch/tensors.h"

namespace fastrnn {
namespace {

pybind11::dict machine_facts() {
  pybind11::dict out;
  out["name"] = this_machine().name;
  for_each_fact(this_machine(), [&](const char* name, auto value) { out[name] = value; });
  return out;
}

// This one, or what a dictionary says of another.
Machine machine_of(const pybind11::object& facts) {
  Machine machine = this_machine();
  if (facts.is_none()) return machine;
  machine.name = pybind11::str(facts["name"]);
  for_each_fact(machine,
                [&](const char* name, auto& value) { value = facts[name].cast<std::decay_t<decltype(value)>>(); });
  return machine;
}

pybind11::dict plan_of(const std::string& cell, const Sizes& sizes, int element_bytes, int threads,
                       const pybind11::object& facts) {
  const Machine machine = machine_of(facts);
  const Plan plan = make_plan(machine, instruction_set(), cell_kind(cell), sizes, element_bytes, threads);
  const Estimate seconds = estimate(machine, instruction_set(), cell_kind(cell), sizes, element_bytes, plan);
  pybind11::dict out;
  out["threads"] = plan.threads;
  out["directions_at_once"] = plan.directions_at_once;
  out["row_parts"] = plan.row_parts;
  out["unit_parts"] = plan.unit_parts;
  out["products"] = plan.direct_forward ? "direct" : plan.hoist_rows > 0 ? "hoisted" : "fused";
  out["hoist_rows"] = plan.hoist_rows;
  out["chunk_rows"] = plan.chunk_rows;
  out["fetch_panels"] = plan.fetch_panels;
  out["seconds"] = seconds.total();
  out["backward_products"] = plan.direct_backward ? "direct" : "fused";
  out["matrix_steps"] = plan.matrix_steps;
  out["matrix_gradients"] = plan.matrix_gradients;
  return out;
}

pybind11::dict facts_of(const std::string& cell) {
  const CellFacts& facts = cell_facts(cell_kind(cell));
  pybind11::list apart;
  for (int gate = 0; gate < facts.gates; ++gate)
    if (facts.apart >> gate & 1) apart.append(gate);
  pybind11::dict out;
  out["gates"] = facts.gates;
  out["sums"] = facts.sums;
  out["apart"] = apart;
  out["saved"] = facts.saved;
  out["states"] = facts.states;
  out["projectable"] = facts.projectable;
  return out;
}

// f.operator()<T>() for products of a dtype: those of float32 where the instruction set has no others.
template <class F>
double with_products_of(const std::string& dtype, F&& f) {
  if (dtype == "bfloat16" && instruction_set().bf16) return f.template operator()<BFloat16>();
  if (dtype == "float64") return f.template operator()<double>();
  TORCH_CHECK_VALUE(dtype == "float32" || dtype == "bfloat16" || dtype == "float16",
                    "expected float32, float64, bfloat16 or float16, got ", dtype);
  return f.template operator()<float>();
}

}  // namespace
}  // namespace fastrnn

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Compiled CPU kernels of fastrnn.";
  // Of the headers. Between minor versions torch's binary interface changes.
  m.attr("built_for_torch") = TORCH_VERSION;
  m.def("isa", [] { return std::string(fastrnn::instruction_set().name); });
  m.def("has_bfloat16", [] { return fastrnn::instruction_set().bf16 != nullptr; });
  m.def("multiplies_bfloat16", &fastrnn::multiplies_bfloat16);
  m.def("has_matrix_unit", [] {
    const auto* bf16 = fastrnn::instruction_set().bf16;
    return bf16 != nullptr && bf16->matrix;
  });
  // What products of a layer on tensors of a dtype take.
  m.def(
      "products_of",
      [](const std::string& dtype, int64_t T, int64_t rows) {
        if (dtype == "float64") return "float64";
        const bool rounded =
            dtype == "float32"
                ? fastrnn::rounds_products(at::kFloat, {.T = T, .B = 0, .I = 0, .H = 0, .P = 0, .D = 0, .N = rows})
                : dtype == "bfloat16" && fastrnn::multiplies_bfloat16();
        return rounded ? "bfloat16" : "float32";
      },
      pybind11::arg("dtype"), pybind11::arg("T"), pybind11::arg("rows"));
  m.def("cells", &fastrnn::cell_names);
  m.def("cell_facts", &fastrnn::facts_of, pybind11::arg("name"));
  m.def("runnable_isas", &fastrnn::runnable_isas);
  m.def("force_isa", &fastrnn::force_isa, pybind11::arg("name"));
  m.def("openmp_library", &fastrnn::openmp_library);
  // Python passes options and sizes one by one; here they become values.
  m.def(
      "plan",
      [](const std::string& cell, int64_t T, int64_t B, int64_t I, int64_t H, int64_t P, int64_t D, int64_t rows,
         int element_bytes, int threads, const pybind11::object& machine) {
        return fastrnn::plan_of(cell, {T, B, I, H, P, D, rows}, element_bytes, threads, machine);
      },
      pybind11::arg("cell"), pybind11::arg("T"), pybind11::arg("B"), pybind11::arg("I"), pybind11::arg("H"),
      pybind11::arg("P"), pybind11::arg("D"), pybind11::arg("rows"), pybind11::arg("element_bytes"),
      pybind11::arg("threads"), pybind11::arg("machine") = pybind11::none());
  m.def("machine", &fastrnn::machine_facts);
  m.def(
      "force_machine", [](const pybind11::dict& facts) { fastrnn::force_machine(fastrnn::machine_of(facts)); },
      pybind11::arg("facts"));
  m.def("call_layers", [](const pybind11::dict& parameters, const pybind11::list& names, const pybind11::object& input,
                          const pybind11::object& hx, const pybind11::object& lengths, const pybind11::object& reset,
                          std::string_view cell, int64_t layers, bool bidirectional, bool has_bias, bool batch_first) {
    const fastrnn::Form form = batch_first ? fastrnn::Form::kBatchFirst : fastrnn::Form::kTimeFirst;
    return fastrnn::call_layers(
        parameters, names, input, hx, lengths, reset,
        fastrnn::stack_of(cell, form, layers, bidirectional ? 2 : 1, has_bias, int64_t(names.size())));
  });
  m.def("call_cell", [](const pybind11::dict& parameters, const pybind11::list& names, const pybind11::object& input,
                        const pybind11::object& hx, std::string_view cell, bool has_bias) {
    return fastrnn::call_cell(parameters, names, input, hx,
                              fastrnn::stack_of(cell, fastrnn::Form::kOneStep, 1, 1, has_bias, int64_t(names.size())));
  });
  m.def(
      "peak_flops",
      [](const std::string& dtype, int threads) {
        return fastrnn::with_products_of(dtype, [&]<class T>() { return fastrnn::peak_flops<T>(threads); });
      },
      pybind11::arg("dtype"), pybind11::arg("threads"), pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def(
      "tile_flops",
      [](const std::string& dtype, int threads) {
        return fastrnn::with_products_of(dtype, [&]<class T>() { return fastrnn::tile_flops<T>(threads); });
      },
      pybind11::arg("dtype"), pybind11::arg("threads"), pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("read_bandwidth", &fastrnn::read_bandwidth, pybind11::arg("bytes"), pybind11::arg("threads"),
        pybind11::call_guard<pybind11::gil_scoped_release>());
}
