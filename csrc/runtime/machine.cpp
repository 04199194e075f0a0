#include "runtime/machine.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <thread>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fastrnn {
namespace {

// What decides between the rows of the table below. Not the model number: virtual machines make one up.
struct Processor {
  std::string_view vendor;
  unsigned family = 0;
  bool avx2 = false, avx512 = false, avx512_bf16 = false, amx = false;
};

Processor this_processor() {
  Processor p;
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  __get_cpuid(0, &a, &b, &c, &d);
  p.vendor = b == signature_INTEL_ebx ? "Intel" : b == signature_AMD_ebx ? "AMD" : "";
  __get_cpuid(1, &a, &b, &c, &d);
  p.family = (a >> 8 & 15) + ((a >> 8 & 15) == 15 ? a >> 20 & 255 : 0);
  __builtin_cpu_init();
  p.avx2 = __builtin_cpu_supports("avx2");
  p.avx512 = __builtin_cpu_supports("avx512f");
  p.avx512_bf16 = __builtin_cpu_supports("avx512bf16");
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) p.amx = d >> 24 & 1;  // amx_tile
#elif defined(__aarch64__)
  p.vendor = "Arm";
#endif
  return p;
}

constexpr double K = 1024, M = 1024 * K, G = 1e9, us = 1e-6;

struct Known {
  bool (*matches)(const Processor&);
  Machine machine;  // caches as large as here only where the system says nothing
};

// The first that matches. Of Zen 4 and the Xeon with AMX (Granite Rapids) the rates of L2, L3 and arithmetic are
// measured. The rest follows from the width of units and buses at a usual clock; a plan depends on ratios of these
// numbers only, and on their order more than on them. FASTRNN_MACHINE and `python -m fastrnn measure` know better.
const Known kKnown[] = {
    {[](const Processor& p) { return p.vendor == "AMD" && p.avx512 && p.family >= 0x1a; },
     {.name = "AMD Zen 5",
      .l1 = {48 * K, 1, 440 * G},
      .l2 = {1 * M, 1, 220 * G},
      .l3 = {32 * M, 8, 100 * G},
      .memory_rate = 30 * G,
      .all_memory_rate = 300 * G,
      .vector_bytes = 64,
      .vector = {232 * G, 116 * G, 464 * G, 928 * G},
      .barrier_seconds = 0.03 * us}},
    {[](const Processor& p) { return p.vendor == "AMD" && p.avx512; },
     {.name = "AMD Zen 4",
      .l1 = {32 * K, 1, 220 * G},
      .l2 = {1 * M, 1, 117 * G},
      .l3 = {32 * M, 8, 72 * G},
      .memory_rate = 20 * G,
      .all_memory_rate = 300 * G,
      .vector_bytes = 64,
      .vector = {116 * G, 58 * G, 232 * G, 464 * G},
      .barrier_seconds = 0.03 * us}},
    {[](const Processor& p) { return p.vendor == "AMD" && p.avx2; },
     {.name = "AMD Zen with AVX2",
      .l1 = {32 * K, 1, 200 * G},
      .l2 = {512 * K, 1, 100 * G},
      .l3 = {16 * M, 4, 60 * G},
      .memory_rate = 15 * G,
      .all_memory_rate = 150 * G,
      .vector_bytes = 32,
      .vector = {112 * G, 56 * G, 0, 0},
      .barrier_seconds = 0.03 * us}},
    {[](const Processor& p) { return p.vendor == "Intel" && p.amx; },
     {.name = "Intel Xeon with AMX",
      .l1 = {48 * K, 1, 205 * G},
      .l2 = {2 * M, 1, 104 * G},
      .l3 = {64 * M, 32, 30 * G},
      .memory_rate = 12 * G,
      .all_memory_rate = 300 * G,
      .vector_bytes = 64,
      .vector = {241 * G, 121 * G, 122 * G, 480 * G},
      .matrix = {0, 0, 3500 * G, 7000 * G},
      .barrier_seconds = 0.2 * us}},
    {[](const Processor& p) { return p.vendor == "Intel" && p.avx512; },
     {.name = "Intel with AVX-512",
      .l1 = {32 * K, 1, 180 * G},
      .l2 = {1 * M, 1, 80 * G},
      .l3 = {24 * M, 18, 20 * G},
      .memory_rate = 10 * G,
      .all_memory_rate = 100 * G,
      .vector_bytes = 64,
      .vector = {180 * G, 90 * G, 90 * G, 360 * G},
      .barrier_seconds = 0.1 * us}},
    {[](const Processor& p) { return p.vendor == "Intel" && p.avx2; },
     {.name = "Intel with AVX2",
      .l1 = {32 * K, 1, 200 * G},
      .l2 = {256 * K, 1, 90 * G},
      .l3 = {8 * M, 4, 40 * G},
      .memory_rate = 15 * G,
      .all_memory_rate = 30 * G,
      .vector_bytes = 32,
      .vector = {112 * G, 56 * G, 0, 0},
      .barrier_seconds = 0.05 * us}},
    {[](const Processor& p) { return p.vendor == "Arm"; },
     {.name = "64-bit Arm",
      .l1 = {64 * K, 1, 80 * G},
      .l2 = {1 * M, 1, 40 * G},
      .l3 = {32 * M, 32, 20 * G},
      .memory_rate = 10 * G,
      .all_memory_rate = 150 * G,
      .vector_bytes = 16,
      .vector = {40 * G, 20 * G, 0, 0},
      .barrier_seconds = 0.1 * us}},
    {[](const Processor&) { return true; },
     {.name = "unknown processor",
      .l1 = {32 * K, 1, 100 * G},
      .l2 = {256 * K, 1, 40 * G},
      .l3 = {8 * M, 4, 20 * G},
      .memory_rate = 10 * G,
      .all_memory_rate = 30 * G,
      .vector_bytes = 64,
      .vector = {50 * G, 25 * G, 0, 0},
      .barrier_seconds = 0.1 * us}},
};

std::string line_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "2048K" in bytes, 0 for what is no size.
double bytes_of(const std::string& text) {
  double bytes = 0;
  char unit = 0;
  std::istringstream(text) >> bytes >> unit;
  return bytes * (unit == 'K' ? K : unit == 'M' ? M : 1);
}

// How many are in a list such as "0-3,8,10-11"; 0 for an empty one.
int count_of(const std::string& list) {
  int count = 0;
  std::istringstream ranges(list);
  for (std::string range; std::getline(ranges, range, ',');) {
    const size_t dash = range.find('-');
    const int first = std::atoi(range.c_str());
    count += 1 + (dash == std::string::npos ? 0 : std::atoi(range.c_str() + dash + 1) - first);
  }
  return count;
}

// The caches of the first core, where Linux describes them. Rates stay.
void read_caches(Machine& m) {
  const std::string folder = "/sys/devices/system/cpu/cpu0/";
  const int siblings = std::max(1, count_of(line_of(folder + "topology/thread_siblings_list")));
  bool found_l2 = false, found_l3 = false;
  for (int i = 0;; ++i) {
    const std::string index = folder + "cache/index" + std::to_string(i) + "/", type = line_of(index + "type");
    if (type.empty()) break;
    if (type == "Instruction") continue;
    const int level = std::atoi(line_of(index + "level").c_str());
    Cache* cache = level == 1 ? &m.l1 : level == 2 ? &m.l2 : level == 3 ? &m.l3 : nullptr;
    const double bytes = bytes_of(line_of(index + "size"));
    if (!cache || bytes <= 0) continue;
    cache->bytes = bytes;
    cache->cores = std::max(1, count_of(line_of(index + "shared_cpu_list")) / siblings);
    found_l2 |= level == 2, found_l3 |= level == 3;
  }
  if (found_l2 && !found_l3) m.l3.bytes = 0;
}

Machine look() {
  const Processor p = this_processor();
  Machine m = std::find_if(std::begin(kKnown), std::end(kKnown), [&](const Known& k) { return k.matches(p); })->machine;
  if (!p.avx512_bf16) m.vector.bfloat16 = m.vector.int8 = 0;
  m.cores = std::max(1u, std::thread::hardware_concurrency());
  read_caches(m);
  if (const char* path = std::getenv("FASTRNN_MACHINE"); path && *path) read_facts(m, path);
  return m;
}

Machine& current() {
  static Machine machine = look();
  return machine;
}

}  // namespace

void read_facts(Machine& machine, const std::string& path) {
  std::ifstream file(path);
  if (!file)
    throw std::invalid_argument("fastrnn: the machine's facts were to be in '" + path + "', which cannot be read");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    if (!(words >> name) || name[0] == '#') continue;
    double value = 0;
    bool known = false;
    const bool number = bool(words >> value) && value >= 0;
    for_each_fact(machine, [&](const char* fact, auto& place) {
      if (name == fact) place = std::decay_t<decltype(place)>(value), known = true;
    });
    if (!known || !number)
      throw std::invalid_argument("fastrnn: expected the name of a fact and a number in '" + path + "', got '" + line +
                                  "'");
  }
  machine.name += ", measured";
}

const Machine& this_machine() { return current(); }

void force_machine(const Machine& machine) { current() = machine; }

}  // namespace fastrnn
