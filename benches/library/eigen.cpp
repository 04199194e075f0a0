// One step of a layer as one writes it on Eigen, of sizes that the compiler knows: gates from one product of the
// stacked weights with [x, h, 1] (LSTM), or of two (GRU). This is how RTNeural's layers are built
// (https://github.com/jatinchowdhury18/RTNeural). MODEL has weight_ih, weight_hh, bias_ih, bias_hh in float32, one
// after the other; its name ends in CELL-H.
#include <Eigen/Dense>
#include <cstring>
#include <memory>
#include <string>

#include "timing.h"

namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct File {
  std::FILE* file;

  Matrix read(int rows, int columns) {
    Matrix m(rows, columns);
    if (std::fread(m.data(), sizeof(float), m.size(), file) != size_t(m.size())) fail("too short a file of weights");
    return m;
  }
};

template <class V>
auto sigmoid(const V& v) {
  return (1.0f + (-v).exp()).inverse();
}

template <int H>
struct Lstm {
  // Columns lie one after the other: the product adds them up, each times a value of the vector.
  Eigen::Matrix<float, 4 * H, 2 * H + 1> weights;
  Eigen::Matrix<float, 2 * H + 1, 1> in;
  Eigen::Matrix<float, 4 * H, 1> sums;
  Eigen::Array<float, H, 1> c;

  explicit Lstm(File file) {
    const Matrix w_ih = file.read(4 * H, H), w_hh = file.read(4 * H, H), b_ih = file.read(4 * H, 1);
    weights << w_ih, w_hh, b_ih + file.read(4 * H, 1);
    in.setZero(), in[2 * H] = 1, c.setZero();
  }

  static void step(void* layer, const float* x, float* y) { static_cast<Lstm*>(layer)->advance(x, y); }
  void advance(const float* x, float* y) {
    in.template head<H>() = Eigen::Map<const Eigen::Matrix<float, H, 1>>(x);
    sums.noalias() = weights * in;
    const auto gate = [&](int g) { return sums.template segment<H>(g * H).array(); };
    c = sigmoid(gate(1)) * c + sigmoid(gate(0)) * gate(2).tanh();
    in.template segment<H>(H) = (sigmoid(gate(3)) * c.tanh()).matrix();
    std::memcpy(y, in.data() + H, H * sizeof(float));
  }
};

template <int H>
struct Gru {
  Eigen::Matrix<float, 3 * H, H + 1> of_x, of_h;
  Eigen::Matrix<float, H + 1, 1> x_in, h_in;
  Eigen::Matrix<float, 3 * H, 1> gx, gh;

  explicit Gru(File file) {
    const Matrix w_ih = file.read(3 * H, H), w_hh = file.read(3 * H, H), b_ih = file.read(3 * H, 1);
    of_x << w_ih, b_ih;
    of_h << w_hh, file.read(3 * H, 1);
    x_in.setZero(), h_in.setZero(), x_in[H] = h_in[H] = 1;
  }

  static void step(void* layer, const float* x, float* y) { static_cast<Gru*>(layer)->advance(x, y); }
  void advance(const float* x, float* y) {
    x_in.template head<H>() = Eigen::Map<const Eigen::Matrix<float, H, 1>>(x);
    gx.noalias() = of_x * x_in;
    gh.noalias() = of_h * h_in;
    const auto of = [](auto& sums, int g) { return sums.template segment<H>(g * H).array(); };
    const Eigen::Array<float, H, 1> z = sigmoid(of(gx, 1) + of(gh, 1));
    const Eigen::Array<float, H, 1> n = (of(gx, 2) + sigmoid(of(gx, 0) + of(gh, 0)) * of(gh, 2)).tanh();
    h_in.template head<H>() = (n + z * (h_in.template head<H>().array() - n)).matrix();
    std::memcpy(y, h_in.data(), H * sizeof(float));
  }
};

template <class Layer>
void run(char** arguments, int units, double start) {
  const File file{std::fopen(arguments[1], "rb")};
  if (!file.file) fail("the weights cannot be read");
  const auto layer = std::make_unique<Layer>(file);
  measure(arguments, layer.get(), units, start, Layer::step);
}

}  // namespace

int main(int count, char** arguments) {
  const double start = now();
  if (count != 4) fail("expected MODEL OUTPUT CALLS");
  const std::string name = arguments[1], kind = name.substr(name.rfind('/') + 1);
  if (kind == "lstm-64") run<Lstm<64>>(arguments, 64, start);
  if (kind == "lstm-128") run<Lstm<128>>(arguments, 128, start);
  if (kind == "lstm-256") run<Lstm<256>>(arguments, 256, start);
  if (kind == "gru-64") run<Gru<64>>(arguments, 64, start);
  if (kind == "gru-128") run<Gru<128>>(arguments, 128, start);
  if (kind == "gru-256") run<Gru<256>>(arguments, 256, start);
}
