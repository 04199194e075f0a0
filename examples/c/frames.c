/* Streams audio frames through a model, each as it comes, and prints what it says of each: frames FILE < FEATURES
 *
 * The standard input has frames of float32, as many as the model takes at a time: what a microphone's callback would
 * hand over. The state stays in the stream from frame to frame; no call allocates, locks or asks the system. */
#include <fastrnn.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char* text) {
  fprintf(stderr, "frames: %s\n", text);
  return EXIT_FAILURE;
}

int main(int count, char** arguments) {
  fastrnn_model* model;
  fastrnn_stream* stream;
  fastrnn_error error;
  if (count != 2) return fail("expected a file");
  if (fastrnn_load(arguments[1], &model, &error)) return fail(error.text);
  if (fastrnn_stream_create(model, 1, 1, &stream, &error)) return fail(error.text);

  const size_t features = (size_t)fastrnn_model_inputs(model), outputs = (size_t)fastrnn_model_outputs(model);
  float* frame = malloc(features * sizeof *frame);
  float* output = malloc(outputs * sizeof *output);
  if (!frame || !output) return fail("no memory");
  while (fread(frame, sizeof *frame, features, stdin) == features) {
    if (fastrnn_process(stream, frame, 1, output, &error)) return fail(error.text);
    for (size_t i = 0; i < outputs; ++i) printf(i + 1 < outputs ? "%.6f " : "%.6f\n", output[i]);
  }

  fastrnn_stream_destroy(stream);
  fastrnn_model_destroy(model);
  free(frame), free(output);
  return EXIT_SUCCESS;
}
