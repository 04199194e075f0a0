// What a plan knows of the machine that it is for, as plain data.
#pragma once

#include <string>

namespace fastrnn {

struct Cache {
  double bytes = 0;  // 0: there is none
  int cores = 1;     // that share it
  double rate = 0;   // bytes/s that a core reads from it
};

// Operations/s of a core by the type of the operands, a multiply-add counting as two; 0 where there is no such unit.
struct Rates {
  double float32 = 0, float64 = 0, bfloat16 = 0, int8 = 0;
};

struct Machine {
  std::string name;
  int cores = 1;
  Cache l1, l2, l3;
  double memory_rate = 0;      // bytes/s that a core reads from memory
  double all_memory_rate = 0;  // and all of them together
  int vector_bytes = 64;       // of the vectors that `vector` is meant for
  Rates vector, matrix;
  double barrier_seconds = 0;    // for each thread that another one waits for
  double thread_seconds = 4e-6;  // work for which a thread is worth starting

  // Whether products of bfloat16 are faster as they are, by vectors or also on the matrix unit, than widened to
  // float32: Intel's 16-bit dot product of vectors is not.
  bool multiplies_bfloat16(bool on_matrix) const {
    return vector.bfloat16 > vector.float32 || (on_matrix && matrix.bfloat16 > vector.float32);
  }
};

// Visits every number of a machine by name: f("l2_bytes", machine.l2.bytes).
template <class M, class F>
void for_each_fact(M& m, F&& f) {
  f("cores", m.cores);
  f("l1_bytes", m.l1.bytes), f("l1_cores", m.l1.cores), f("l1_rate", m.l1.rate);
  f("l2_bytes", m.l2.bytes), f("l2_cores", m.l2.cores), f("l2_rate", m.l2.rate);
  f("l3_bytes", m.l3.bytes), f("l3_cores", m.l3.cores), f("l3_rate", m.l3.rate);
  f("memory_rate", m.memory_rate), f("all_memory_rate", m.all_memory_rate);
  f("vector_bytes", m.vector_bytes);
  f("vector_float32", m.vector.float32), f("vector_float64", m.vector.float64);
  f("vector_bfloat16", m.vector.bfloat16), f("vector_int8", m.vector.int8);
  f("matrix_float32", m.matrix.float32), f("matrix_float64", m.matrix.float64);
  f("matrix_bfloat16", m.matrix.bfloat16), f("matrix_int8", m.matrix.int8);
  f("barrier_seconds", m.barrier_seconds), f("thread_seconds", m.thread_seconds);
}

// This machine, looked at once: its caches as the system describes them, rates from a table of known processors, and
// over both what the file named by FASTRNN_MACHINE says, in lines of a name above and a number.
const Machine& this_machine();
// Plans for another one from now on, as tests do.
void force_machine(const Machine& machine);

// Throws std::invalid_argument for a name or number that is none.
void read_facts(Machine& machine, const std::string& path);

}  // namespace fastrnn
