/* Streams of one model on several threads at once, for tests/test_library.py: FILE CALLS. Each gives the same input a
 * step at a time. Fails where two of them end in other states. */
#define _POSIX_C_SOURCE 199309L
#include <fastrnn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kThreads = 4, kMostFeatures = 4096 };

static const fastrnn_model* model;
static long calls;

static void* run(void* state) {
  fastrnn_stream* stream;
  fastrnn_error error;
  float x[kMostFeatures], y[kMostFeatures];
  if (fastrnn_stream_create(model, 1, 1, &stream, &error)) return NULL;
  for (long i = 0; i < calls; ++i) {
    for (int k = 0; k < fastrnn_model_inputs(model); ++k) x[k] = (float)((i + k) % 7) - 3;
    if (fastrnn_process(stream, x, 1, y, &error)) return NULL;
  }
  fastrnn_get_state(stream, state);
  fastrnn_stream_destroy(stream);
  return state;
}

int main(int count, char** arguments) {
  static float states[kThreads][kMostFeatures];
  pthread_t threads[kThreads];
  fastrnn_model* loaded;
  fastrnn_error error;
  if (count != 3 || fastrnn_load(arguments[1], &loaded, &error)) return EXIT_FAILURE;
  model = loaded, calls = atol(arguments[2]);
  for (int i = 0; i < kThreads; ++i)
    if (pthread_create(&threads[i], NULL, run, states[i])) return EXIT_FAILURE;
  for (int i = 0; i < kThreads; ++i) {
    void* state;
    if (pthread_join(threads[i], &state) || !state) return EXIT_FAILURE;
    if (memcmp(states[i], states[0], sizeof states[0])) {
      fprintf(stderr, "thread %d ended in another state than thread 0\n", i);
      return EXIT_FAILURE;
    }
  }
  int moved = 0;
  for (int i = 0; i < kMostFeatures; ++i) moved |= states[0][i] != 0;
  fastrnn_model_destroy(loaded);
  return moved ? EXIT_SUCCESS : EXIT_FAILURE;
}
