/* One step of a layer by libfastrnn. MODEL is a file of fastrnn.export. */
#define _POSIX_C_SOURCE 199309L
#include <fastrnn.h>

#include "timing.h"

static void step(void* stream, const float* x, float* y) {
  if (fastrnn_process((fastrnn_stream*)stream, x, 1, y, NULL)) fail("the step was refused");
}

int main(int count, char** arguments) {
  const double start = now();
  fastrnn_model* model;
  fastrnn_stream* stream;
  fastrnn_error error;
  if (count != 4) fail("expected MODEL OUTPUT CALLS");
  if (fastrnn_load(arguments[1], &model, &error) || fastrnn_stream_create(model, 1, 1, &stream, &error))
    fail(error.text);
  measure(arguments, stream, (size_t)fastrnn_model_inputs(model), start, step);
  fastrnn_stream_destroy(stream);
  fastrnn_model_destroy(model);
  return EXIT_SUCCESS;
}
