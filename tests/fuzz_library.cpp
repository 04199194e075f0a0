// What libfastrnn makes of any bytes, for libFuzzer: `make fuzz-library`. A file that loads is run as well: some steps
// of two rows, in two calls, so that a size that was believed too much would show.
#include <cstdlib>
#include <vector>

#include "library/fastrnn.h"

namespace {

constexpr int64_t kRows = 2, kSteps = 3;

template <class In, class Process>
void run(fastrnn_stream* stream, int64_t inputs, int64_t outputs, Process process) {
  std::vector<In> x(kSteps * kRows * inputs);
  std::vector<float> y(kSteps * kRows * outputs), state(fastrnn_state_size(stream));
  fastrnn_error error;
  for (int call = 0; call < 2; ++call) {
    process(stream, x.data(), kSteps, y.data(), &error);
    fastrnn_get_state(stream, state.data());
    fastrnn_set_state(stream, state.data());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  fastrnn_model* model;
  fastrnn_stream* stream;
  fastrnn_error error;
  if (fastrnn_load_memory(bytes, size, &model, &error) != FASTRNN_OK) return 0;
  const int64_t inputs = fastrnn_model_inputs(model), outputs = fastrnn_model_outputs(model);
  const bool tokens = fastrnn_model_takes_tokens(model);
  if (fastrnn_stream_create(model, kRows, kSteps, &stream, &error) != FASTRNN_OK) std::abort();
  fastrnn_model_destroy(model);
  if (tokens)
    run<int32_t>(stream, 1, outputs, fastrnn_process_tokens);
  else
    run<float>(stream, inputs, outputs, fastrnn_process);
  fastrnn_stream_destroy(stream);
  return 0;
}
