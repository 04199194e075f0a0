// The C interface: checks of arguments, and the border that no exception crosses.
#include "library/fastrnn.h"

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>

#include "library/stream.h"

struct fastrnn_model {
  std::shared_ptr<const fastrnn::Model> shared;
};

struct fastrnn_stream {
  fastrnn::Stream stream;
};

namespace fastrnn {
namespace {

template <class... Values>
fastrnn_status report(fastrnn_error* error, fastrnn_status status, const char* text, Values... values) {
  if (error) std::snprintf(error->text, sizeof error->text, text, values...);
  return status;
}

template <class F>
fastrnn_status guarded(fastrnn_error* error, F&& f) noexcept {
  try {
    f();
    return FASTRNN_OK;
  } catch (const Failure& failure) {
    return report(error, failure.status, "%s", failure.text.c_str());
  } catch (const std::bad_alloc&) {
    return report(error, FASTRNN_NO_MEMORY, "%s", "the system has no memory left for this");
  } catch (const std::exception& exception) {  // of the choice of the instruction set
    return report(error, FASTRNN_NO_ISA, "%s", exception.what());
  }
}

fastrnn_status refuse_null(fastrnn_error* error, const char* name) {
  return report(error, FASTRNN_BAD_ARGUMENT, "expected %s, got a null pointer", name);
}

template <class Read>
fastrnn_status load(Read read, fastrnn_model** model, fastrnn_error* error) {
  return guarded(error, [&] { *model = new fastrnn_model{std::make_shared<const Model>(read())}; });
}

// Null where a call may run.
template <class In>
fastrnn_status check_call(const fastrnn_stream* stream, const In* input, int64_t steps, const float* output,
                          fastrnn_error* error) {
  if (!stream) return refuse_null(error, "a stream");
  if (!input) return refuse_null(error, "an input");
  if (!output) return refuse_null(error, "an output");
  const Stream& s = stream->stream;
  if (s.model().takes_tokens() != std::is_same_v<In, int32_t>)
    return report(error, FASTRNN_BAD_ARGUMENT, "expected %s, got %s", s.model().takes_tokens() ? "tokens" : "features",
                  s.model().takes_tokens() ? "features" : "tokens");
  if (steps < 1) return report(error, FASTRNN_BAD_ARGUMENT, "expected a step at least, got %lld", (long long)steps);
  if (!s.model().takes_whole_sequences()) return FASTRNN_OK;
  if (steps > s.steps())
    return report(error, FASTRNN_BAD_ARGUMENT,
                  "expected at most the stream's %lld steps for a model of 2 directions, got %lld",
                  (long long)s.steps(), (long long)steps);
  if (!s.fresh())
    return report(error, FASTRNN_NO_RESET, "expected %s before another sequence for a model of 2 directions",
                  "fastrnn_reset");
  return FASTRNN_OK;
}

}  // namespace
}  // namespace fastrnn

using fastrnn::check_call;
using fastrnn::guarded;
using fastrnn::refuse_null;

const char* fastrnn_version(void) { return FASTRNN_VERSION; }

fastrnn_status fastrnn_load(const char* path, fastrnn_model** model, fastrnn_error* error) {
  if (!path) return refuse_null(error, "a path");
  if (!model) return refuse_null(error, "a place for the model");
  return fastrnn::load([&] { return fastrnn::File::read(path); }, model, error);
}

fastrnn_status fastrnn_load_memory(const void* bytes, size_t size, fastrnn_model** model, fastrnn_error* error) {
  if (!bytes) return refuse_null(error, "a file");
  if (!model) return refuse_null(error, "a place for the model");
  return fastrnn::load([&] { return fastrnn::File::of_memory(bytes, size); }, model, error);
}

void fastrnn_model_destroy(fastrnn_model* model) { delete model; }

const char* fastrnn_model_isa(const fastrnn_model* model) { return model->shared->isa(); }
int fastrnn_model_takes_tokens(const fastrnn_model* model) { return model->shared->takes_tokens(); }
int64_t fastrnn_model_inputs(const fastrnn_model* model) { return model->shared->inputs(); }
int64_t fastrnn_model_outputs(const fastrnn_model* model) { return model->shared->outputs(); }
int fastrnn_model_pools(const fastrnn_model* model) { return model->shared->pools(); }
int fastrnn_model_takes_whole_sequences(const fastrnn_model* model) { return model->shared->takes_whole_sequences(); }

fastrnn_status fastrnn_stream_create(const fastrnn_model* model, int64_t rows, int64_t steps, fastrnn_stream** stream,
                                     fastrnn_error* error) {
  if (!model) return refuse_null(error, "a model");
  if (!stream) return refuse_null(error, "a place for the stream");
  return guarded(error, [&] { *stream = new fastrnn_stream{{model->shared, rows, steps}}; });
}

void fastrnn_stream_destroy(fastrnn_stream* stream) { delete stream; }

fastrnn_status fastrnn_process(fastrnn_stream* stream, const float* input, int64_t steps, float* output,
                               fastrnn_error* error) {
  const fastrnn_status status = check_call(stream, input, steps, output, error);
  if (status == FASTRNN_OK) stream->stream.process(input, steps, output);
  return status;
}

fastrnn_status fastrnn_process_tokens(fastrnn_stream* stream, const int32_t* tokens, int64_t steps, float* output,
                                      fastrnn_error* error) {
  const fastrnn_status status = check_call(stream, tokens, steps, output, error);
  if (status != FASTRNN_OK) return status;
  const int64_t known = stream->stream.model().inputs();
  for (int64_t i = 0; i < steps * stream->stream.rows(); ++i)
    if (tokens[i] < 0 || tokens[i] >= known)
      return fastrnn::report(error, FASTRNN_BAD_ARGUMENT, "expected tokens from 0 to %lld, got %ld",
                             (long long)known - 1, (long)tokens[i]);
  stream->stream.process(tokens, steps, output);
  return FASTRNN_OK;
}

int64_t fastrnn_state_size(const fastrnn_stream* stream) { return stream->stream.state_size(); }
void fastrnn_get_state(const fastrnn_stream* stream, float* state) {
  std::memcpy(state, stream->stream.state(), stream->stream.state_size() * sizeof(float));
}
void fastrnn_set_state(fastrnn_stream* stream, const float* state) { stream->stream.set_state(state); }
void fastrnn_reset(fastrnn_stream* stream) { stream->stream.reset(); }
