/* Runs a model of libfastrnn for tests/test_library.py: FILE ROWS STEPS CHUNK. Reads an input of STEPS steps from the
 * standard input, gives CHUNK steps to each call, and writes the outputs, then the state. */
#include <fastrnn.h>
#include <stdio.h>
#include <stdlib.h>

static void fail(const char* text) {
  fprintf(stderr, "%s\n", text);
  exit(EXIT_FAILURE);
}

static void* room(int64_t count) {
  void* memory = calloc((size_t)count, sizeof(float));
  if (!memory) fail("no memory");
  return memory;
}

int main(int count, char** arguments) {
  fastrnn_model* model;
  fastrnn_stream* stream;
  fastrnn_error error;
  if (count != 5) fail("expected FILE ROWS STEPS CHUNK");
  if (fastrnn_load(arguments[1], &model, &error)) fail(error.text);
  const int64_t rows = atoll(arguments[2]), steps = atoll(arguments[3]), chunk = atoll(arguments[4]);
  const int pools = fastrnn_model_pools(model), tokens = fastrnn_model_takes_tokens(model);
  const int64_t in = rows * (tokens ? 1 : fastrnn_model_inputs(model)), out = rows * fastrnn_model_outputs(model);
  if (fastrnn_stream_create(model, rows, chunk, &stream, &error)) fail(error.text);
  fastrnn_model_destroy(model); /* the stream keeps what it needs */

  const int64_t state_size = fastrnn_state_size(stream), out_steps = pools ? 1 : steps;
  char* input = room(steps * in);
  float *output = room(out_steps * out), *state = room(state_size);
  if (fread(input, sizeof(float), (size_t)(steps * in), stdin) != (size_t)(steps * in)) fail("too short an input");
  for (int64_t done = 0; done < steps; done += chunk) {
    const int64_t now = steps - done < chunk ? steps - done : chunk;
    const void* x = input + done * in * (int64_t)sizeof(float);
    float* y = output + (pools ? 0 : done * out);
    const fastrnn_status status =
        tokens ? fastrnn_process_tokens(stream, x, now, y, &error) : fastrnn_process(stream, x, now, y, &error);
    if (status) fail(error.text);
  }
  fastrnn_get_state(stream, state);
  fwrite(output, sizeof(float), (size_t)(out_steps * out), stdout);
  fwrite(state, sizeof(float), (size_t)state_size, stdout);
  fastrnn_stream_destroy(stream);
  free(input), free(output), free(state);
  return EXIT_SUCCESS;
}
