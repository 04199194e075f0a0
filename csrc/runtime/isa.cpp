#include "runtime/isa.h"

#include <cstdlib>
#include <stdexcept>

#include "runtime/amx.h"

namespace fastrnn {

extern const InstructionSet kBaseline;
#if defined(__x86_64__)
extern const InstructionSet kAvx2, kAvx512;
extern const ShortKernels kAvx512Bf16, kAmx, kSoftwareTiles;
#endif

namespace {

#if defined(__x86_64__)
InstructionSet with_short_kernels(const char* name, const ShortKernels& kernels) {
  InstructionSet set = kAvx512;
  set.name = name;
  set.bf16 = &kernels.bf16;
  set.f32_rounded = &kernels.f32_rounded;
  set.frozen_bf16 = kernels.frozen_bf16;
  set.frozen_int8 = kernels.frozen_int8;
  return set;
}
#endif

// The last is the best. Tiles in software, for tests, come first.
std::vector<const InstructionSet*> runnable() {
  std::vector<const InstructionSet*> sets = {&kBaseline};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return sets;
  sets.push_back(&kAvx2);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return sets;
  sets.push_back(&kAvx512);
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) return sets;
  static const InstructionSet avx512bf16 = with_short_kernels("avx512bf16", kAvx512Bf16);
  sets.push_back(&avx512bf16);
#if !defined(FASTRNN_INFERENCE)
  static const InstructionSet software_tiles = with_short_kernels("software_tiles", kSoftwareTiles);
  sets.insert(sets.begin(), &software_tiles);
#endif
  static const InstructionSet amx = with_short_kernels("amx", kAmx);
  if (amx_is_usable()) sets.push_back(&amx);
#endif
  return sets;
}

const InstructionSet* find_isa(const std::string& name) {
  std::string known;
  for (const InstructionSet* set : runnable()) {
    if (name == set->name) return set;
    known += known.empty() ? set->name : std::string(", ") + set->name;
  }
  throw std::invalid_argument("fastrnn: instruction set '" + name + "' was asked for, this build and processor run " +
                              known);
}

const InstructionSet*& current() {
  static const InstructionSet* set = [] {
    const char* forced = std::getenv("FASTRNN_CPU_ISA");
    return forced && *forced ? find_isa(forced) : runnable().back();
  }();
  return set;
}

}  // namespace

const InstructionSet& instruction_set() { return *current(); }

std::vector<std::string> runnable_isas() {
  std::vector<std::string> names;
  for (const InstructionSet* set : runnable()) names.push_back(set->name);
  return names;
}

void force_isa(const std::string& name) { current() = find_isa(name); }

template <>
const Kernels<float>& kernels<float, float>() {
  return instruction_set().f32;
}
template <>
const Kernels<float>& kernels<float, BFloat16>() {
  return *instruction_set().f32_rounded;
}
template <>
const Kernels<double>& kernels<double, double>() {
  return instruction_set().f64;
}
template <>
const Kernels<BFloat16>& kernels<BFloat16, BFloat16>() {
  return *instruction_set().bf16;
}

template <>
const FrozenKernels<float>& frozen_kernels() {
  return instruction_set().frozen_f32;
}
template <>
const FrozenKernels<BFloat16>& frozen_kernels() {
  return instruction_set().frozen_bf16;
}
template <>
const FrozenKernels<int8_t>& frozen_kernels() {
  return instruction_set().frozen_int8;
}

}  // namespace fastrnn
