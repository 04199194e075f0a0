// Random layers through the kernels, for `make sanitize`: what a sanitizer sees without Python and torch around them.
//
// Every array is an allocation of its own, as long as the kernels are told, so that AddressSanitizer sees a step beyond
// its end; results hold NaN until they are written. With --plant the kernels are given what a sanitizer must find:
// memory that is too short, or a barrier at which nobody waits.
#include <sanitizer/common_interface_defs.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "runtime/isa.h"
#include "runtime/layer.h"
#include "runtime/plan.h"
#include "runtime/run.h"

namespace fastrnn {
namespace {

std::string now_running;  // for the report of a sanitizer

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", now_running.c_str(), what.c_str());
  std::exit(EXIT_FAILURE);
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  int64_t between(int64_t least, int64_t most) { return std::uniform_int_distribution<int64_t>(least, most)(engine_); }
  bool one_in(int64_t n) { return between(1, n) == 1; }
  float normal() { return normal_(engine_); }
  // The numbers below n, shuffled.
  std::vector<int64_t> order(int64_t n) {
    std::vector<int64_t> out(n);
    std::iota(out.begin(), out.end(), 0);
    std::shuffle(out.begin(), out.end(), engine_);
    return out;
  }
  // Mostly small, and around the widths of vectors and tiles.
  int64_t size(int64_t most) {
    const int64_t kind = between(0, 3);
    if (kind == 0) return std::min(most, 16 * between(1, 4) + between(-1, 1));
    return between(1, kind == 1 ? std::min<int64_t>(most, 8) : kind == 2 ? std::min<int64_t>(most, 40) : most);
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

float to_float(float x) { return x; }
double to_float(double x) { return x; }
float to_float(BFloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
void set(float& to, float x) { to = x; }
void set(double& to, float x) { to = x; }
void set(int8_t& to, float x) { to = int8_t(std::lrint(40 * x)); }
void set(BFloat16& to, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  to.bits = uint16_t(bits >> 16);
}

// Arrays that live as long as a layer's call and its checks.
class Arrays {
 public:
  explicit Arrays(Random& random) : random_(random) {}

  template <class T>
  T* values(int64_t n, float scale = 1) {
    T* out = room<T>(n);
    for (int64_t i = 0; i < n; ++i) set(out[i], scale * std::clamp(random_.normal(), -3.0f, 3.0f));
    return out;
  }
  // For results. Nothing is written yet, so that a value nobody wrote shows: NaN.
  template <class T>
  T* room(int64_t n) {
    held_.emplace_back(operator new(n * sizeof(T)));
    std::memset(held_.back().get(), 0xff, n * sizeof(T));
    return static_cast<T*>(held_.back().get());
  }
  template <class T>
  T* zeros(int64_t n) {
    return static_cast<T*>(std::memset(room<T>(n), 0, n * sizeof(T)));
  }

 private:
  struct Free {
    void operator()(void* p) const { operator delete(p); }
  };
  Random& random_;
  std::deque<std::unique_ptr<void, Free>> held_;
};

template <class T>
void check_written(const T* values, int64_t n, const char* name) {
  for (int64_t i = 0; values && i < n; ++i)
    if (!std::isfinite(to_float(values[i]))) fail(std::string(name) + " is not finite at " + std::to_string(i));
}

struct Layer {
  LayerOptions options;
  CellFacts facts;
  Sizes n;
  BatchRows rows;
  int threads;
  float scale;  // of weights

  std::string describe(const char* what) const {
    std::string text = std::string(instruction_set().name) + " " + facts.name + " " + what;
    for (const auto& [name, size] : {std::pair{"T", n.T}, {"B", n.B}, {"I", n.I}, {"H", n.H}, {"P", n.P}, {"D", n.D}})
      text += " " + std::string(name) + std::to_string(size);
    const char* forms[] = {"", " batch-first", " packed", " one step"};
    text += forms[int(options.form)];
    if (!options.has_bias) text += " no bias";
    if (options.layer_norm) text += " layer norm";
    return text + " " + std::to_string(threads) + " threads";
  }
};

Layer random_layer(Random& random, int64_t most, bool frozen) {
  Layer layer{};
  const int cells = int(cell_names().size());
  layer.options.cell = CellKind(random.between(0, cells - 1));
  layer.facts = cell_facts(layer.options.cell);
  layer.options.has_bias = !random.one_in(4);
  layer.options.projected = !frozen && layer.facts.projectable && random.one_in(4);
  layer.options.layer_norm = !frozen && random.one_in(4);
  layer.options.form = Form(random.between(0, 2));
  Sizes& n = layer.n;
  n = {random.size(most), random.size(most), random.size(most), random.size(most), 0, random.between(1, 2), 0};
  // Some milliseconds of work at most, or few layers would run.
  while (double(n.T) * n.B * n.H * (n.I + n.H) * n.D > 4e6) {
    int64_t* const sizes[] = {&n.T, &n.T, &n.B, &n.B, &n.I, &n.H};
    int64_t& size = *sizes[random.between(0, 5)];
    size = (size + 1) / 2;
  }
  n.P = layer.options.projected ? random.between(1, n.H) : n.H;
  n.N = n.T * n.B;
  if (layer.options.form == Form::kPacked) {
    std::vector<int64_t> sizes = {n.B};
    while (int64_t(sizes.size()) < n.T)
      sizes.push_back(random.one_in(2) ? sizes.back() : random.between(1, sizes.back()));
    n.N = 0;
    for (const int64_t size : sizes) n.N += size;
    const std::string wrong = layer.rows.set_packed(sizes.data(), n.T, n.B, n.N);
    if (!wrong.empty()) fail(wrong);
    if (random.one_in(2)) layer.rows.set_places(random.order(n.N), random.order(n.N));
  } else {
    layer.rows.set_dense(n.T, n.B, layer.options.form == Form::kBatchFirst);
  }
  layer.options.directions = n.D;
  layer.threads = int(random.between(1, 4));
  layer.scale = 0.3f / std::sqrt(float(n.H));  // so that an RNN with ReLU does not grow without end
  return layer;
}

template <class T, class Q = T>
void run(const Layer& layer, Random& random, const char* type) {
  const bool norm = layer.options.layer_norm;
  Sizes n = layer.n;
  if (norm) n.I = 0;
  const CellFacts& facts = layer.facts;
  const int64_t gates = facts.gates * n.H, states = n.D * n.B;
  const bool cell_state = facts.states == 2, given_h = random.one_in(2), saves = !random.one_in(3);
  now_running += layer.describe(type);
  Arrays arrays(random);

  std::vector<Weights<T>> weights;
  for (int64_t d = 0; d < n.D; ++d) {
    const auto bias = [&] { return layer.options.has_bias ? arrays.values<T>(gates, layer.scale) : nullptr; };
    Weights<T> w{};
    w.w_hh = arrays.values<T>(gates * n.P, layer.scale), w.b_hh = bias();
    if (layer.options.projected) w.w_hr = arrays.values<T>(n.P * n.H, layer.scale);
    if (norm) {
      w.ln_hh = arrays.values<T>(gates);
      if (cell_state) w.ln_c = arrays.values<T>(n.H);
      if (cell_state && layer.options.has_bias) w.b_ln_c = arrays.values<T>(n.H);
    } else {
      w.w_ih = arrays.values<T>(gates * n.I, layer.scale), w.b_ih = bias();
    }
    weights.push_back(w);
  }
  const int64_t inputs = norm ? n.D * gates : n.I;
  const T* x = arrays.values<T>(n.N * inputs);
  const T* h_0 = given_h ? arrays.values<T>(states * n.P) : nullptr;
  const Real<T>* c_0 = cell_state && given_h ? arrays.values<Real<T>>(states * n.H) : nullptr;
  const T* h_mask = random.one_in(4) ? arrays.values<T>(states * n.P) : nullptr;
  Zoneout zoneout;
  if (random.one_in(4)) {
    zoneout.h = layer.options.projected ? 0 : 0.25 * random.between(0, 4);
    zoneout.c = cell_state ? 0.25 * random.between(0, 4) : 0;
    zoneout.drawn = !random.one_in(3), zoneout.key = random.between(0, 1 << 30), zoneout.first_row = n.N;
  }
  const int64_t saved_width = saved_values(facts, bool(zoneout), norm) * n.H;
  const auto initial = [&] {
    auto* c = arrays.zeros<Real<T>>(states * n.H);
    if (c_0) std::memcpy(c, c_0, states * n.H * sizeof(Real<T>));
    return c;
  };
  const auto forward = [&](int threads, bool save) {
    ForwardArgs<T> args{};
    args.sizes = n, args.x_rows = layer.rows.x_rows(), args.rows = layer.rows.rows(), args.x = x, args.h_0 = h_0,
    args.weights = weights.data(), args.h_mask = h_mask, args.zoneout = zoneout;
    args.y = arrays.room<T>(n.N * n.D * n.P), args.h_T = arrays.room<T>(states * n.P);
    args.cell_state = cell_state ? initial() : nullptr;
    args.saved = save ? arrays.room<Real<T>>(n.D * n.N * saved_width) : nullptr;
    args.cell_states = cell_state && save ? arrays.room<Real<T>>(n.D * n.N * n.H) : nullptr;
    run_forward<T, Q>(layer.options.cell, args, threads);
    check_written(args.y, n.N * n.D * n.P, "y");
    check_written(args.h_T, states * n.P, "h_T");
    check_written(args.cell_state, states * n.H, "the cell state");
    check_written(args.saved, n.D * n.N * saved_width, "saved");
    check_written(args.cell_states, n.D * n.N * n.H, "the cell states");
    return args;
  };
  const ForwardArgs<T> made = forward(layer.threads, saves);
  const ForwardArgs<T> alone = forward(1, false);
  if (std::memcmp(made.y, alone.y, n.N * n.D * n.P * sizeof(T))) fail("y depends on the threads or on what is saved");
  if (!saves) return;

  BackwardArgs<T> args{};
  args.sizes = n, args.x_rows = made.x_rows, args.rows = made.rows, args.x = x, args.h_0 = h_0, args.cell_state_0 = c_0;
  args.weights = weights.data(), args.y = made.y, args.saved = made.saved;
  args.h_mask = h_mask, args.zoneout = zoneout;
  args.dy = random.one_in(4) ? nullptr : arrays.values<T>(n.N * n.D * n.P);
  args.dh_T = random.one_in(2) ? nullptr : arrays.values<T>(states * n.P);
  args.dcell_states = cell_state && random.one_in(2) ? arrays.values<Real<T>>(n.D * n.N * n.H) : nullptr;
  args.dx = random.one_in(3) ? nullptr : arrays.room<Real<T>>(n.N * inputs);
  args.dh_0 = given_h && !random.one_in(3) ? arrays.room<Real<T>>(states * n.P) : nullptr;
  args.carry = facts.has_carry ? arrays.zeros<Real<T>>(states * n.H) : nullptr;
  args.h_carry = zoneout.h > 0 ? arrays.zeros<Real<T>>(states * n.H) : nullptr;
  std::vector<WeightGradients<Real<T>>> gradients;
  for (int64_t d = 0; d < n.D; ++d) {
    const auto wanted = [&](const T* weight, int64_t size) {
      return weight && !random.one_in(4) ? arrays.room<Real<T>>(size) : nullptr;
    };
    const Weights<T>& w = weights[d];
    gradients.push_back({wanted(w.w_ih, gates * n.I), wanted(w.w_hh, gates * n.P), wanted(w.b_ih, gates),
                         wanted(w.b_hh, gates), wanted(w.w_hr, n.P * n.H), wanted(w.ln_hh, gates), wanted(w.ln_c, n.H),
                         wanted(w.b_ln_c, n.H)});
  }
  args.gradients = gradients.data();
  if (!norm && random.one_in(3)) {
    args.by_row.dsums = arrays.room<T>(n.D * n.N * facts.sums * n.H);
    if (layer.options.projected)
      args.by_row.dh = arrays.room<T>(n.D * n.N * n.P), args.by_row.h = arrays.room<T>(n.D * n.N * n.H);
  }
  run_backward<T, Q>(layer.options.cell, args, layer.threads);
  check_written(args.dx, n.N * inputs, "dx");
  check_written(args.dh_0, states * n.P, "dh_0");
  check_written(args.carry, states * n.H, "the carried gradient");
  check_written(args.by_row.dsums, n.D * n.N * facts.sums * n.H, "gradients of the sums");
  check_written(args.by_row.dh, n.D * n.N * n.P, "gradients of the outputs");
  check_written(args.by_row.h, n.D * n.N * n.H, "what was projected");
  for (const WeightGradients<Real<T>>& g : gradients) {
    check_written(g.w_ih, gates * n.I, "d weight_ih");
    check_written(g.w_hh, gates * n.P, "d weight_hh");
    check_written(g.b_ih, gates, "d bias_ih");
    check_written(g.b_hh, gates, "d bias_hh");
    check_written(g.w_hr, n.P * n.H, "d weight_hr");
    check_written(g.ln_hh, gates, "d weight_ln_hh");
    check_written(g.ln_c, n.H, "d weight_ln_c");
    check_written(g.b_ln_c, n.H, "d bias_ln_c");
  }
}

template <class S>
void run_frozen_layer(const Layer& layer, Random& random, const char* type) {
  const Sizes& n = layer.n;
  const int64_t gates = layer.facts.gates * n.H, states = n.D * n.B;
  now_running += layer.describe(type);
  Arrays arrays(random);
  std::vector<FrozenWeights<S>> weights;
  for (int64_t d = 0; d < n.D; ++d) {
    const auto bias = [&] { return layer.options.has_bias ? arrays.values<float>(gates, layer.scale) : nullptr; };
    const auto scale = [&] {
      float* out = std::is_same_v<S, int8_t> ? arrays.room<float>(gates) : nullptr;
      for (int64_t i = 0; out && i < gates; ++i) out[i] = layer.scale / 40;
      return out;
    };
    weights.push_back({arrays.values<S>(gates * n.I, std::is_same_v<S, int8_t> ? 1 : layer.scale),
                       arrays.values<S>(gates * n.H, std::is_same_v<S, int8_t> ? 1 : layer.scale), bias(), bias(),
                       scale(), scale()});
  }
  const FrozenKernels<S>& kernels = frozen_kernels<S>();
  const int64_t bytes = kernels.panel_bytes(layer.options.cell, n);
  const std::unique_ptr<char, void (*)(void*)> panels(
      static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)), std::free);
  kernels.pack(layer.options.cell, n, weights.data(), panels.get());
  FrozenArgs args{};
  args.sizes = n, args.x_rows = layer.rows.x_rows(), args.rows = layer.rows.rows(),
  args.x = arrays.values<float>(n.N * n.I);
  args.h_0 = random.one_in(2) ? arrays.values<float>(states * n.H) : nullptr;
  args.panels = panels.get(), args.y = arrays.room<float>(n.N * n.D * n.H), args.h_T = arrays.room<float>(states * n.H);
  args.cell_state = layer.facts.states == 2 ? arrays.zeros<float>(states * n.H) : nullptr;
  if (random.one_in(4)) args.zoneout.h = args.zoneout.c = 0.5;
  run_frozen<S>(layer.options.cell, args, layer.threads);
  check_written(args.y, n.N * n.D * n.H, "y");
  check_written(args.h_T, states * n.H, "h_T");
  check_written(args.cell_state, states * n.H, "the cell state");
}

void run_any(uint64_t seed, int64_t most) {
  now_running = "--seed " + std::to_string(seed) + " --layers 1: ";
  Random random(seed);
  const std::vector<std::string> isas = runnable_isas();
  force_isa(isas[random.between(0, int64_t(isas.size()) - 1)]);
  const int64_t kind = random.between(0, 5);
  Layer layer = random_layer(random, most, /*frozen=*/kind >= 4);
  const bool bfloat16 = instruction_set().bf16;
  if (kind == 0 && bfloat16)
    run<BFloat16>(layer, random, "bfloat16");
  else if (kind == 1 && bfloat16 && !takes_weights_as_they_lie(layer.n))
    run<float, BFloat16>(layer, random, "float32, products in bfloat16");
  else if (kind <= 2)
    run<float>(layer, random, "float32");
  else if (kind == 3)
    run<double>(layer, random, "float64");
  else if (kind == 4)
    run_frozen_layer<BFloat16>(layer, random, "frozen bfloat16");
  else
    run_frozen_layer<int8_t>(layer, random, "frozen int8");
}

// Layers in which something is wrong on purpose.

struct Planted {
  Layer layer{};
  Random random{0};
  Arrays arrays{random};
  std::vector<Weights<float>> weights;
  ForwardArgs<float> args{};

  explicit Planted(const char* what) {
    layer.options = {CellKind(0), Form::kTimeFirst, 1, true, false};
    layer.facts = cell_facts(layer.options.cell);
    layer.n = {3, 8, 64, 64, 64, 1, 24};
    layer.rows.set_dense(layer.n.T, layer.n.B, /*x_by_sequence=*/false);
    now_running = layer.describe(what);
    const int64_t H = layer.n.H, gates = layer.facts.gates * H, states = layer.n.B * H;
    weights.push_back({arrays.values<float>(gates * H), arrays.values<float>(gates * H), arrays.values<float>(gates),
                       arrays.values<float>(gates), nullptr});
    args.sizes = layer.n, args.x_rows = layer.rows.x_rows(), args.rows = layer.rows.rows(),
    args.x = arrays.values<float>(layer.n.N * H);
    args.weights = weights.data(), args.y = arrays.room<float>(layer.n.N * H), args.h_T = arrays.room<float>(states);
    args.cell_state = layer.facts.states == 2 ? arrays.zeros<float>(states) : nullptr;
  }
};

void plant_short_output() {
  Planted planted("a short y");
  planted.args.y = planted.arrays.room<float>(planted.layer.n.N * planted.layer.n.H - 1);
  run_forward(planted.layer.options.cell, planted.args, 1);
}

void plant_short_workspace() {
  Planted planted("a short workspace");
  const Plan plan;
  const int64_t bytes = kernels<float>().forward_workspace(planted.layer.options.cell, planted.args, plan);
  const std::unique_ptr<char, void (*)(void*)> memory(static_cast<char*>(std::aligned_alloc(64, bytes / 128 * 64)),
                                                      std::free);
  kernels<float>().forward(planted.layer.options.cell, planted.args, plan, {0, 1, nullptr, nullptr}, memory.get());
}

void plant_race() {
  Planted planted("a barrier at which nobody waits");
  Plan plan;
  plan.threads = plan.row_parts = 2;
  const int64_t bytes = kernels<float>().forward_workspace(planted.layer.options.cell, planted.args, plan);
  const std::unique_ptr<char, void (*)(void*)> memory(static_cast<char*>(std::aligned_alloc(64, bytes)), std::free);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      Place places[2];
      Barrier barriers[3];
      for (Barrier& barrier : barriers) barrier.arrived = 1, barrier.places = places;
      kernels<float>().forward(planted.layer.options.cell, planted.args, plan, {rank, 2, barriers, places + rank},
                               memory.get());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

int run_plants(const std::string& what) {
  if (what == "output") plant_short_output();
  if (what == "workspace") plant_short_workspace();
  if (what == "race") plant_race();
  std::printf("%s: nothing found\n", now_running.c_str());
  return EXIT_SUCCESS;
}

int run_many(double seconds, uint64_t seed, int64_t layers, int64_t most) {
  const auto start = std::chrono::steady_clock::now();
  int64_t done = 0;
  for (; done < layers; ++done, ++seed) {
    if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > seconds) break;
    run_any(seed, most);
  }
  std::printf("%lld layers on %zu instruction sets, the last of --seed %llu: nothing found\n", (long long)done,
              runnable_isas().size(), (unsigned long long)(seed - 1));
  return EXIT_SUCCESS;
}

int main_with(int argc, char** argv) {
  double seconds = 60;
  uint64_t seed = std::random_device()();
  int64_t layers = INT64_MAX, most = 300;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--plant") return run_plants(value);
    if (name == "--seconds")
      seconds = std::stod(value);
    else if (name == "--seed")
      seed = std::stoull(value);
    else if (name == "--layers")
      layers = std::stoll(value);
    else if (name == "--most")
      most = std::stoll(value);
    else
      fail("expected --seconds, --seed, --layers, --most or --plant, each with a value, got " + name);
  }
  return run_many(seconds, seed, layers, most);
}

}  // namespace
}  // namespace fastrnn

int main(int argc, char** argv) {
  __sanitizer_set_death_callback([] { std::fprintf(stderr, "in %s\n", fastrnn::now_running.c_str()); });
  return fastrnn::main_with(argc, argv);
}
