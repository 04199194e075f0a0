// Runs programs with fastrnn's layers without Python. Arguments: files of TorchScript (.pt) or AOTInductor (.pt2) that
// take x [B, T, I] in float64. Prints for each the sum of squares of its output, and for TorchScript of all gradients.
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdio>
#include <string>

namespace {

void print(const std::string& name, const at::Tensor& t) {
  std::printf("%s %.17g\n", name.c_str(), t.square().sum().item<double>());
}

void run_script(const std::string& file, const at::Tensor& x) {
  torch::jit::Module program = torch::jit::load(file);
  const at::Tensor y = program.forward({x}).toTensor();
  print("y", y);
  y.square().sum().backward();
  for (const auto& parameter : program.named_parameters()) print(parameter.name, parameter.value.grad());
}

void run_compiled(const std::string& file, const at::Tensor& x) {
  torch::inductor::AOTIModelPackageLoader program(file);
  print("y", program.run({x})[0]);
}

}  // namespace

int main(int count, char** arguments) {
  const at::Tensor x = at::arange(4 * 7 * 5, at::kDouble).sin().view({4, 7, 5});
  for (int k = 1; k < count; ++k) {
    const std::string file = arguments[k];
    file.ends_with(".pt2") ? run_compiled(file, x) : run_script(file, x);
  }
}
