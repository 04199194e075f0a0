// Runs one layer, forward or backward, for tests/test_arm.py: the kernels on a processor that has no Python and no
// torch.
//
// Standard input has a Request, batch_sizes [T] of a packed batch, then arrays, each after its length in elements; an
// empty one is a null pointer. Results are among them with what they hold before the call; they are the output.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <new>
#include <vector>

#include "runtime/layer.h"
#include "runtime/run.h"

// Memory that nobody has written holds NaN, as in the other tests: this is where the kernels' workspace comes from.
void* operator new(size_t bytes, std::align_val_t alignment) {
  const size_t align = size_t(alignment);
  void* p = std::aligned_alloc(align, (bytes + align - 1) / align * align);
  return p ? std::memset(p, 0xff, bytes) : throw std::bad_alloc();
}
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }

namespace fastrnn {
namespace {

struct Request {
  int64_t backward, element_bytes, cell, threads, form;
  Sizes sizes;
};

template <class V>
std::vector<V> receive(int64_t count) {
  std::vector<V> out(count);
  if (int64_t(std::fread(out.data(), sizeof(V), count, stdin)) != count) std::exit(EXIT_FAILURE);
  return out;
}

void set_rows(const Request& request, BatchRows& batch) {
  const Sizes& n = request.sizes;
  if (Form(request.form) != Form::kPacked)
    return batch.set_dense(n.T, n.B, /*x_by_sequence=*/Form(request.form) == Form::kBatchFirst);
  const std::string wrong = batch.set_packed(receive<int64_t>(n.T).data(), n.T, n.B, n.N);
  if (wrong.empty()) return;
  std::fprintf(stderr, "%s\n", wrong.c_str());
  std::exit(EXIT_FAILURE);
}

template <class T>
void answer(const Request& request) {
  BatchRows batch;
  set_rows(request, batch);
  const Rows x_rows = batch.x_rows(), rows = batch.rows();
  std::deque<std::vector<T>> arrays;
  std::vector<const std::vector<T>*> results;
  const auto in = [&]() -> T* {
    arrays.push_back(receive<T>(receive<int64_t>(1)[0]));
    return arrays.back().empty() ? nullptr : arrays.back().data();
  };
  const auto out = [&] {
    T* data = in();
    results.push_back(&arrays.back());
    return data;
  };
  // The arrays come in the order in which they are asked for here.
  const CellKind kind = CellKind(request.cell);
  std::vector<Weights<T>> weights;
  for (int64_t d = 0; d < request.sizes.D; ++d) weights.push_back({in(), in(), in(), in(), in()});
  if (request.backward) {
    BackwardArgs<T> args{request.sizes, x_rows, rows, in(),  in(),  in(),  weights.data(), in(),
                         in(),          in(),   in(), out(), out(), out(), nullptr,        {}};
    std::vector<WeightGradients<T>> gradients;
    for (int64_t d = 0; d < request.sizes.D; ++d) gradients.push_back({out(), out(), out(), out(), out()});
    args.gradients = gradients.data();
    run_backward(kind, args, int(request.threads));
  } else {
    const ForwardArgs<T> args{request.sizes, x_rows, rows, in(), in(), weights.data(), out(), out(), out(), out()};
    run_forward(kind, args, int(request.threads));
  }
  for (const std::vector<T>* result : results) std::fwrite(result->data(), sizeof(T), result->size(), stdout);
}

}  // namespace
}  // namespace fastrnn

int main() {
  const fastrnn::Request request = fastrnn::receive<fastrnn::Request>(1)[0];
  if (request.element_bytes == 8)
    fastrnn::answer<double>(request);
  else
    fastrnn::answer<float>(request);
}
