// What this machine does at most, measured.
#pragma once

#include <cstdint>

namespace fastrnn {

template <class T>
double peak_flops(int threads);                     // FLOP/s, two per fused multiply-add
double read_bandwidth(int64_t bytes, int threads);  // bytes/s over all threads, each reading its own buffer

}  // namespace fastrnn
