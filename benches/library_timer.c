/* Times calls of libfastrnn for benches/library.py: FILE CHUNK CALLS. Prints, in ns, what loading and a first call
 * take, then of all further calls the least, the quartiles, the 0.999 quantile and the most. */
#define _POSIX_C_SOURCE 199309L
#include <fastrnn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void fail(const char* text) {
  fprintf(stderr, "%s\n", text);
  exit(EXIT_FAILURE);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static int by_value(const void* left, const void* right) {
  const float a = *(const float*)left, b = *(const float*)right;
  return (a > b) - (a < b);
}

int main(int count, char** arguments) {
  fastrnn_model* model;
  fastrnn_stream* stream;
  fastrnn_error error;
  if (count != 4) fail("expected FILE CHUNK CALLS");
  const double start = now();
  if (fastrnn_load(arguments[1], &model, &error)) fail(error.text);
  const int64_t chunk = atoll(arguments[2]), calls = atoll(arguments[3]);
  if (fastrnn_stream_create(model, 1, chunk, &stream, &error)) fail(error.text);
  const int64_t inputs = chunk * fastrnn_model_inputs(model), outputs = chunk * fastrnn_model_outputs(model);
  float* x = malloc((size_t)inputs * sizeof(float));
  float* y = malloc((size_t)outputs * sizeof(float));
  float* times = malloc((size_t)calls * sizeof(float));
  if (!x || !y || !times) fail("no memory");
  for (int64_t i = 0; i < inputs; ++i) x[i] = (float)(i * 7919 % 2003) / 1000 - 1;
  for (int64_t i = 0; i < calls; ++i) times[i] = 0; /* so that its pages are there */

  if (fastrnn_process(stream, x, chunk, y, &error)) fail(error.text);
  const double started = now();
  for (int64_t i = 0; i < 100; ++i) fastrnn_process(stream, x, chunk, y, NULL);
  for (int64_t i = 0; i < calls; ++i) {
    const double before = now();
    fastrnn_process(stream, x, chunk, y, NULL);
    times[i] = (float)(now() - before);
  }
  qsort(times, (size_t)calls, sizeof *times, by_value);
  printf("%.0f %.0f %.0f %.0f %.0f %.0f %.0f\n", started - start, times[0], times[calls / 4], times[calls / 2],
         times[calls * 3 / 4], times[(int64_t)(0.999 * (double)calls)], times[calls - 1]);
  fastrnn_stream_destroy(stream);
  fastrnn_model_destroy(model);
  return EXIT_SUCCESS;
}
