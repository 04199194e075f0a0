/* What the programs that time one step of a layer share: MODEL OUTPUT CALLS. The standard input has the inputs of some
 * steps, float32 [steps][H]. Their outputs from a state of zeros on go to the file OUTPUT, then so many calls of one
 * step each are timed. Printed are, in ns, what it takes from nothing to the first output, and of the calls the least,
 * the quartiles, the 0.999 quantile and the most. */
#ifndef TIMING_H
#define TIMING_H

#include <stdint.h>
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

static float* room(size_t count) {
  float* memory = (float*)calloc(count, sizeof(float));
  if (!memory) fail("no memory");
  return memory;
}

/* In ns. Linux keeps what has real-time priority from running for 50 ms of every second that it fills. */
enum { kWorkBetweenRests = 500000000, kRest = 60000000 };

typedef void step_function(void* layer, const float* x, float* y);

/* `start` is when the program began. */
static void measure(char** arguments, void* layer, size_t units, double start, step_function step) {
  enum { kMostSteps = 1000 };
  float *x = room(kMostSteps * units), *y = room(units);
  const size_t steps = fread(x, units * sizeof(float), kMostSteps, stdin);
  FILE* output = fopen(arguments[2], "wb");
  if (!steps || !output) fail("expected inputs and a file for outputs");
  double started = 0;
  for (size_t i = 0; i < steps; ++i) {
    step(layer, x + i * units, y);
    if (i == 0) started = now();
    if (fwrite(y, sizeof(float), units, output) != units) fail("the outputs cannot be written");
  }
  fclose(output);

  const size_t calls = (size_t)atoll(arguments[3]);
  float* times = room(calls);
  for (size_t i = 0; i < calls; ++i) times[i] = 1; /* so that its pages are there */
  for (size_t i = 0; i < 200; ++i) step(layer, x, y);
  double rested = now();
  for (size_t i = 0; i < calls; ++i) {
    const double before = now();
    if (before - rested > kWorkBetweenRests) {
      const struct timespec rest = {0, kRest};
      nanosleep(&rest, NULL);
      rested = now();
      --i;
      continue;
    }
    step(layer, x + i % steps * units, y);
    times[i] = (float)(now() - before);
  }
  qsort(times, calls, sizeof *times, by_value);
  printf("%.0f %.0f %.0f %.0f %.0f %.0f %.0f\n", started - start, times[0], times[calls / 4], times[calls / 2],
         times[calls * 3 / 4], times[(size_t)(0.999 * (double)calls)], times[calls - 1]);
  free(x), free(y), free(times);
}

#endif
