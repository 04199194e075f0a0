/* Classifies a sequence of tokens by a model that `python -m fastrnn export` has written: classify FILE TOKEN... */
#include <fastrnn.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char* text) {
  fprintf(stderr, "classify: %s\n", text);
  return EXIT_FAILURE;
}

int main(int count, char** arguments) {
  fastrnn_model* model;
  fastrnn_stream* stream;
  fastrnn_error error;
  if (count < 3) return fail("expected a file and the tokens of a sequence");
  if (fastrnn_load(arguments[1], &model, &error)) return fail(error.text);
  if (!fastrnn_model_pools(model)) return fail("expected a model that gives one answer for a sequence");

  const int steps = count - 2;
  const int64_t classes = fastrnn_model_outputs(model);
  int32_t* tokens = malloc((size_t)steps * sizeof *tokens);
  float* scores = malloc((size_t)classes * sizeof *scores);
  if (!tokens || !scores) return fail("no memory");
  for (int i = 0; i < steps; ++i) tokens[i] = (int32_t)atol(arguments[i + 2]);

  if (fastrnn_stream_create(model, 1, steps, &stream, &error)) return fail(error.text);
  if (fastrnn_process_tokens(stream, tokens, steps, scores, &error)) return fail(error.text);
  int best = 0;
  for (int i = 1; i < classes; ++i) best = scores[i] > scores[best] ? i : best;
  printf("class %d, score %.6f\n", best, scores[best]);

  fastrnn_stream_destroy(stream);
  fastrnn_model_destroy(model);
  free(tokens), free(scores);
  return EXIT_SUCCESS;
}
