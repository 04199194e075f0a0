// What this machine does at most, measured.
#pragma once

#include <cstdint>

namespace fastrnn {

// FLOP/s, two per fused multiply-add: of nothing else, and of a register tile whose operands lie in L1.
template <class T>
double peak_flops(int threads);
template <class T>
double tile_flops(int threads);
double read_bandwidth(int64_t bytes, int threads);  // bytes/s over all threads, each reading its own buffer

}  // namespace fastrnn
